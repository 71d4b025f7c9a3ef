"""timm's `Eva` class, for DINOv3 models only."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from vitkit.models import dinov3
from vitkit.timm.layers import Attention, GluMlp, PatchEmbed, SwiGLU, norm_eps
from vitkit.timm.models._arguments import Shared, bind
from vitkit.timm.models._blocks import EvaBlock, drop_path_rates
from vitkit.timm.models._timm_vit import POOLS, TimmViT
from vitkit.timm.models.vision_transformer import layer_norm_factory

FIXED: dict[str, tuple[Any, ...]] = {
    "num_kv_heads": (None,),
    "qkv_fused": (True,),
    "qk_norm": (False,),
    "scale_mlp": (False,),
    "scale_attn_inner": (False,),
    "attn_type": ("eva",),
    "attn_only_layer_scale": (False,),
    "class_token": (True,),
    "no_embed_class": (False, True),
    "use_abs_pos_emb": (False,),
    "use_rot_pos_emb": (True,),
    "rope_type": ("dinov3",),
    "rope_grid_offset": (0, 0.0),
    "rope_grid_indexing": ("ij",),
    "rope_rotate_half": (True,),
    "rope_shift_coords": (None,),
    "rope_jitter_coords": (None,),
    "rope_mrope_section": (None,),
    "use_post_norm": (False,),
    "use_pre_transformer_norm": (False,),
    "use_post_transformer_norm": (None,),
    "ref_feat_shape": (None,),
    "patch_drop_rate": (0, 0.0),
}


@dataclasses.dataclass(frozen=True)
class EvaArguments(Shared):
    """Arguments of timm's `Eva` that are supported for DINOv3."""

    global_pool: str = "avg"
    swiglu_mlp: bool = False
    swiglu_align_to: int = 0
    num_reg_tokens: int = 0
    rope_temperature: float = 10000.0
    rope_rescale_coords: float | None = None
    use_fc_norm: bool | None = None
    dynamic_img_size: bool = False
    dynamic_img_pad: bool = False
    head_init_scale: float = 0.001

    @property
    def pooled_norm(self) -> bool:
        """Whether the final norm follows the pooling."""
        return self.global_pool == "avg" if self.use_fc_norm is None else self.use_fc_norm

    def config(self) -> dinov3.Config:
        """Converts the arguments to a vitkit config."""
        fields = self.sizes()
        align = self.swiglu_align_to if self.swiglu_mlp else 0
        fields["mlp_width"] += -fields["mlp_width"] % align if align else 0
        pool: Any = POOLS.get(self.global_pool, "token")
        return dinov3.Config(
            **fields,
            num_registers=self.num_reg_tokens,
            pool=pool,
            mlp="swiglu" if self.swiglu_mlp else "mlp",
            norm_eps=norm_eps(self.norm_layer, self.norm_eps),
            qkv_bias=self.qkv_bias,
            rotary_base=float(self.rope_temperature),
            rotary_rescale=float(self.rope_rescale_coords or 1.0),
            layer_scale=self.layer_scale,
            stochastic_depth_shape="linear",
        )


class Eva(TimmViT, dinov3.DINOv3):  # type: ignore[misc] - timm names the argument of forward x
    """DINOv3 with timm's arguments, methods and parameter names. Other models of timm's `Eva` are not supported.

    Raises TypeError for an unknown argument, and ValueError for an option that vitkit does not have.
    """

    arguments_class = EvaArguments

    pools = ("", "avg", "token")
    hidden = ("patch_drop",)

    @classmethod
    def config_of(cls, **kwargs: Any) -> dinov3.Config:
        """Converts timm's arguments to a vitkit config. Raises the errors of the constructor."""
        return bind(EvaArguments, cls.__name__, (), kwargs, FIXED).config()

    def __init__(self, *args: Any, **kwargs: Any):
        arguments = bind(EvaArguments, type(self).__name__, args, kwargs, FIXED)
        self.check_pool(arguments.global_pool, True)
        config = arguments.config()
        with torch.device("meta"):
            dinov3.DINOv3.__init__(self, config)
            self.patch_embed = PatchEmbed(
                arguments.img_size,
                arguments.patch_size,
                arguments.in_chans,
                arguments.embed_dim,
                output_fmt="NHWC" if arguments.dynamic_img_size else None,
                strict_img_size=not arguments.dynamic_img_size,
                dynamic_img_pad=arguments.dynamic_img_pad,
            )
            rates = drop_path_rates(arguments.drop_path_rate, arguments.depth)
            self.blocks = nn.ModuleList(self._block(arguments, config, rate) for rate in rates)
            arguments = dataclasses.replace(arguments, norm_eps=config.norm_eps)
            self._finish(arguments, use_fc_norm=arguments.pooled_norm, dynamic=arguments.dynamic_img_size)
        self.pos_embed = None
        self.head_init_scale = arguments.head_init_scale
        self._materialize(arguments)

    @staticmethod
    def _block(arguments: EvaArguments, config: dinov3.Config, rate: float) -> EvaBlock:
        width, drop = arguments.embed_dim, arguments.proj_drop_rate
        mlp = None
        if arguments.swiglu_mlp and arguments.swiglu_align_to:
            mlp = SwiGLU(width, arguments.mlp_width, drop=drop, align_to=arguments.swiglu_align_to)
        elif arguments.swiglu_mlp:
            mlp = GluMlp(width, 2 * arguments.mlp_width, drop=drop)
        bias: Any = "qv" if arguments.qkv_bias else False
        return EvaBlock(
            width,
            arguments.num_heads,
            mlp_ratio=arguments.mlp_ratio,
            init_values=arguments.init_values,
            proj_drop=drop,
            drop_path=rate,
            norm_layer=layer_norm_factory(config.norm_eps),
            attn=Attention(width, arguments.num_heads, bias, attn_drop=arguments.attn_drop_rate, proj_drop=drop),
            mlp=mlp,
        )

    def _pos_embed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the tokens, and the rotary embedding of the patches."""
        grid = self.patch_embed.grid_size if x.ndim == 3 else (x.shape[1], x.shape[2])
        return super()._pos_embed(x), self.rotation(grid, x.device)

    def block_inputs(self, grid: tuple[int, int]) -> dict[str, Any]:
        """Returns the rotary embedding of the patches."""
        return {"rope": self.rotation(grid, self.cls_token.device)}

    def init_weights(self, needs_reset: bool = True) -> None:
        """Initializes weights (truncated normal). Divides the weights of output layers in block i by sqrt(2 i)."""
        dinov3.DINOv3.init_weights(self)
        with torch.no_grad():
            for number, block in enumerate(self.blocks, start=1):
                block.reset_parameters()
                for layer in (block.attn.proj, block.mlp.fc2):
                    layer.weight.div_((2.0 * number) ** 0.5)
            for parameter in self.head.parameters():
                parameter.mul_(self.head_init_scale or 1.0)

    def no_weight_decay(self) -> set[str]:
        """Returns the names of parameters without weight decay."""
        return {"pos_embed", "cls_token", "reg_token"}
