"""timm's DeiT with a distillation token."""

from typing import Any

import torch
from torch import Tensor, nn

from vitkit.models import deit
from vitkit.timm.layers import move_first
from vitkit.timm.models._arguments import bind
from vitkit.timm.models._timm_vit import TimmViT
from vitkit.timm.models.vision_transformer import FIXED, VisionTransformer, VisionTransformerArguments

# The distilled DeiT has no options besides sizes.
DISTILLED = FIXED | {
    "class_token": (True,),
    "reg_tokens": (0,),
    "qk_norm": (False,),
    "init_values": (None, 0),
    "pos_embed": ("learn",),
    "no_embed_class": (False,),
    "fc_norm": (False,),
    "mlp_layer": (None, "Mlp"),
}


class VisionTransformerDistilled(TimmViT, deit.DeiT):  # type: ignore[misc] - timm names the argument of forward x
    """DeiT with timm's methods. The class token and the distillation token each have their own head.

    The output is the mean of both heads, or in training after `set_distilled_training()` the pair of their logits.
    """

    arguments_class = VisionTransformerArguments

    pools = ("token",)
    pools_message = "The distilled head reads the class and distillation tokens."
    stem = r"^cls_token|pos_embed|patch_embed|dist_token"
    head_dist: nn.Module

    @classmethod
    def config_of(cls, **kwargs: Any) -> deit.Config:
        """Converts timm's arguments to a vitkit config. Raises the errors of the constructor."""
        return cls._config(bind(VisionTransformerArguments, cls.__name__, (), kwargs, DISTILLED))

    @staticmethod
    def _config(arguments: VisionTransformerArguments) -> deit.Config:
        plain = arguments.config()
        return deit.Config(
            **arguments.sizes(),
            position_resize="bicubic_antialias",
            activation=plain.activation,
            norm_eps=plain.norm_eps,
            qkv_bias=arguments.qkv_bias,
        )

    def __init__(self, *args: Any, **kwargs: Any):
        arguments = bind(VisionTransformerArguments, type(self).__name__, args, kwargs, DISTILLED)
        self.check_pool(arguments.global_pool, True)
        config = self._config(arguments)
        with torch.device("meta"):
            deit.DeiT.__init__(self, config)
            self.patch_embed = VisionTransformer._patch_embed(arguments)
            rates = VisionTransformer._rates(arguments)
            self.blocks = nn.Sequential(*(VisionTransformer._block(arguments, rate) for rate in rates))
            self.has_class_token, self.no_embed_class = True, False
            self._finish(arguments, use_fc_norm=False, dynamic=arguments.dynamic_img_size)
            move_first(self, "cls_token", "pos_embed", "dist_token")
        self.distilled_training = False
        self._materialize(arguments)

    def init_weights(self, mode: str = "", needs_reset: bool = True) -> None:
        """Initializes weights and position embeddings from a truncated normal, and the class token with std 1e-6."""
        deit.DeiT.init_weights(self)
        nn.init.normal_(self.cls_token, std=1e-6)

    def set_distilled_training(self, enable: bool = True) -> None:
        """Sets whether the model returns the logits of each head in training, instead of their mean."""
        self.distilled_training = enable

    def get_classifier(self) -> tuple[nn.Module, nn.Module]:
        """Returns both heads."""
        return self.head, self.head_dist

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces both heads with randomly initialized heads."""
        if global_pool not in (None, "", "token"):
            raise AssertionError(f"{self.pools_message} Got global_pool={global_pool!r}.")
        super().reset_classifier(num_classes)
        self.head_dist = self._new_head(num_classes)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Any:
        """Returns the mean of the logits of both heads, or in distilled training the logits of each head."""
        first, second = self.head_drop(x[:, 0]), self.head_drop(x[:, 1])
        if pre_logits:
            return (first + second) / 2
        first, second = self.head(first), self.head_dist(second)
        return (first, second) if self.distilled_training and self.training else (first + second) / 2
