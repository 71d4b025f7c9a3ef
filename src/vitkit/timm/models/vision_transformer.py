"""timm's plain ViT, also with a ResNet as patch embedding (the hybrids)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from vitkit.layers import init_layers, init_truncated
from vitkit.models import hybrid, vit
from vitkit.timm.layers import (
    Attention,
    DropPath,
    GluMlp,
    HybridEmbed,
    LayerScale,
    LayerType,
    Mlp,
    PatchEmbed,
    act_name,
    move_first,
    norm_eps,
    to_2tuple,
)
from vitkit.timm.models._arguments import Shared, bind
from vitkit.timm.models._blocks import Block, drop_path_rates
from vitkit.timm.models._timm_vit import POOLS, TimmViT

__all__ = [
    "Attention",
    "Block",
    "DropPath",
    "LayerScale",
    "Mlp",
    "PatchEmbed",
    "VisionTransformer",
]

# Arguments of timm whose other values change the model and are not supported.
FIXED: dict[str, tuple[Any, ...]] = {
    "scale_attn_norm": (False,),
    "scale_mlp_norm": (False,),
    "proj_bias": (True,),
    "pool_include_prefix": (False,),
    "embed_norm_layer": (None,),
    "embed_layer": (PatchEmbed, "PatchEmbed"),
    "block_fn": (Block, "Block"),
    "attn_layer": (Attention, "Attention", "attn"),
    "pos_embed": ("learn", "none", ""),
    "weight_init": ("", "skip", "reset", "jax"),
}


@dataclasses.dataclass(frozen=True)
class VisionTransformerArguments(Shared):
    """Arguments of timm's `VisionTransformer`. `layers` has the number of blocks in each ResNet stage of a hybrid."""

    qk_norm: bool = False
    class_token: bool = True
    pos_embed: str = "learn"
    no_embed_class: bool = False
    reg_tokens: int = 0
    pre_norm: bool = False
    final_norm: bool = True
    fc_norm: bool | None = None
    dynamic_img_size: bool = False
    dynamic_img_pad: bool = False
    weight_init: str = ""
    fix_init: bool = False
    act_layer: LayerType | None = None
    mlp_layer: Any = None
    layers: tuple[int, ...] | None = None

    @property
    def packed(self) -> bool:
        """Whether the MLP is a SwiGLU with one matrix for gate and value."""
        if self.mlp_layer is None or self.mlp_layer is Mlp or self.mlp_layer == "Mlp":
            return False
        if self.mlp_layer not in (GluMlp, "swiglu_packed"):
            raise ValueError(f"mlp_layer is {self.mlp_layer!r}; vitkit's ViTs support Mlp and GluMlp (SwiGLU)")
        return True

    @property
    def use_fc_norm(self) -> bool:
        """Whether the final norm follows the pooling."""
        return self.global_pool == "avg" if self.fc_norm is None else self.fc_norm

    def _norm(self, pool: str) -> str:
        if not self.final_norm:
            return "none"
        return "pooled" if self.use_fc_norm and pool != "none" else "tokens"

    def config(self) -> vit.Config:
        """Converts the arguments to a vitkit config."""
        pool = POOLS.get(self.global_pool, "none")
        fields = self.sizes()
        fields["mlp_width"] = self.mlp_width // 2 if self.packed else self.mlp_width
        learned = self.pos_embed == "learn"
        fields |= {
            "class_token": self.class_token,
            "num_registers": self.reg_tokens,
            "pool": pool,
            "norm": self._norm(pool),
            "pre_norm": self.pre_norm,
            "patch_bias": not self.pre_norm,
            "position": "learned" if learned else "none",
            "position_tokens": "patches" if self.no_embed_class or not learned else "all",
            "position_resize": "bicubic_antialias",
            "mlp": "swiglu" if self.packed else "mlp",
            "activation": act_name(self.act_layer),
            "norm_eps": norm_eps(self.norm_layer, self.norm_eps),
            "qkv_bias": self.qkv_bias,
            "qk_norm": self.qk_norm,
            "layer_scale": self.layer_scale,
            "init": "jax" if self.weight_init == "jax" else "truncated",
        }
        if self.layers is None:
            return vit.Config(**fields)
        return self._hybrid(fields)

    def _hybrid(self, fields: dict[str, Any]) -> hybrid.Config:
        depths = tuple(self.layers or ())
        stride = hybrid.Config(depths=depths, patch_size=(32, 32)).stride
        patch = to_2tuple(self.patch_size)
        fields |= {"depths": depths, "init": "jax", "patch_size": (patch[0] * stride, patch[1] * stride)}
        fields |= {"group_norm_eps": 1e-5, "weight_eps": 1e-8, "weight_eps_on": "variance"}
        return hybrid.Config(**fields)


class VisionTransformer(TimmViT, vit.ViT):  # type: ignore[misc] - timm names the argument of forward x
    """Vision Transformer with timm's arguments, methods and parameter names.

    Raises TypeError for an unknown argument, and ValueError for an option that vitkit does not have.
    """

    arguments_class = VisionTransformerArguments

    @classmethod
    def config_of(cls, **kwargs: Any) -> vit.Config:
        """Converts timm's arguments to a vitkit config. Raises the errors of the constructor."""
        return bind(VisionTransformerArguments, cls.__name__, (), kwargs, FIXED).config()

    def __init__(self, *args: Any, **kwargs: Any):
        arguments = bind(VisionTransformerArguments, type(self).__name__, args, kwargs, FIXED)
        self.check_pool(arguments.global_pool, arguments.class_token)
        config = arguments.config()
        with torch.device("meta"):
            self._build(arguments, config)
        self.fix_init = arguments.fix_init
        self._materialize(arguments, arguments.weight_init)

    def _build(self, arguments: VisionTransformerArguments, config: vit.Config) -> None:
        embed = (
            self._hybrid_embed(arguments, config) if isinstance(config, hybrid.Config) else self._patch_embed(arguments)
        )
        vit.ViT.__init__(self, config, embed)
        self.blocks = nn.Sequential(*(self._block(arguments, rate) for rate in self._rates(arguments)))
        self.has_class_token, self.num_reg_tokens = arguments.class_token, arguments.reg_tokens
        self.no_embed_class, self.pool_include_prefix = arguments.no_embed_class, False
        self._finish(
            dataclasses.replace(arguments, norm_eps=config.norm_eps),
            use_fc_norm=arguments.use_fc_norm,
            dynamic=arguments.dynamic_img_size,
        )

    @staticmethod
    def _rates(arguments: Shared) -> list[float]:
        return drop_path_rates(arguments.drop_path_rate, arguments.depth)

    @staticmethod
    def _patch_embed(arguments: VisionTransformerArguments) -> PatchEmbed:
        return PatchEmbed(
            arguments.img_size,
            arguments.patch_size,
            arguments.in_chans,
            arguments.embed_dim,
            output_fmt="NHWC" if arguments.dynamic_img_size else None,
            bias=not arguments.pre_norm,
            strict_img_size=not arguments.dynamic_img_size,
            dynamic_img_pad=arguments.dynamic_img_pad,
        )

    @staticmethod
    def _hybrid_embed(arguments: VisionTransformerArguments, config: hybrid.Config) -> HybridEmbed:
        plain = hybrid.hybrid(config).patch_embed
        for module in plain.backbone.modules():
            move_first(module, "downsample")
        return HybridEmbed(
            plain.backbone,
            config.image_size,
            config.map_patch,
            feature_dim=plain.channels,
            feature_ratio=config.stride,
            embed_dim=config.width,
            in_chans=config.channels,
            output_fmt="NHWC" if arguments.dynamic_img_size else None,
        )

    @staticmethod
    def _block(arguments: VisionTransformerArguments, rate: float) -> Block:
        width, drop = arguments.embed_dim, arguments.proj_drop_rate
        return Block(
            width,
            arguments.num_heads,
            arguments.mlp_ratio,
            arguments.qkv_bias,
            arguments.qk_norm,
            proj_drop=drop,
            attn_drop=arguments.attn_drop_rate,
            init_values=arguments.init_values,
            drop_path=rate,
            act_layer=arguments.act_layer,
            norm_layer=arguments.norm_layer or layer_norm_factory(arguments.norm_eps),
            mlp=GluMlp(width, arguments.mlp_width, drop=drop) if arguments.packed else None,
        )

    def init_weights(self, mode: str = "", needs_reset: bool = True) -> None:
        """Initializes all weights with timm's schemes: `""` (truncated normal), `"jax"`, `"reset"` or `"skip"`."""
        mode = mode or self.weight_init_mode
        if mode == "jax":
            vit.ViT._init_jax(self)
        elif mode in ("skip", "reset"):
            for module in self.modules():
                if isinstance(module, LayerScale):
                    nn.init.constant_(module.gamma, module.initial)
                elif module is not self and hasattr(module, "reset_parameters"):
                    module.reset_parameters()  # type: ignore[operator]
        else:
            init_layers(self)  # the ResNet of a hybrid
            init_truncated(self)
            self._init_resnet()
        self._init_tokens()
        if self.fix_init:
            self.fix_init_weight()

    def _init_resnet(self) -> None:
        """Initializes the ResNet convolutions of a hybrid (Kaiming normal). A stem without stages does not change."""
        config = self.config
        if isinstance(config, hybrid.Config) and config.depths:
            for module in self.patch_embed.backbone.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _init_tokens(self) -> None:
        """Initializes special tokens, position embeddings and the query of attention pooling."""
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for token in self._prefix():
            nn.init.normal_(token, std=1e-6)
        if self.attn_pool is not None:
            nn.init.trunc_normal_(self.attn_pool.latent, std=self.embed_dim**-0.5)

    def fix_init_weight(self) -> None:
        """Divides the weights of the output layers of block i (counted from 1) by sqrt(2 i)."""
        with torch.no_grad():
            for number, block in enumerate(self.blocks, start=1):
                for layer in (block.attn.proj, block.mlp.fc2):
                    layer.weight.div_((2.0 * number) ** 0.5)


def layer_norm_factory(eps: float) -> Callable[[int], nn.Module]:
    """Returns a function that creates a LayerNorm for a width."""
    return lambda width: nn.LayerNorm(width, eps=eps)
