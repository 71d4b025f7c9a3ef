"""timm's BEiT and BEiT v2."""

import dataclasses
from typing import Any

import torch
from torch import nn

from vitkit.layers import relative_bias, relative_index
from vitkit.models import beit
from vitkit.timm.layers import norm_eps
from vitkit.timm.models._arguments import Shared, bind
from vitkit.timm.models._blocks import BeitAttention, BeitBlock, drop_path_rates
from vitkit.timm.models._timm_vit import POOLS, TimmViT
from vitkit.timm.models.vision_transformer import PatchEmbed, layer_norm_factory

FIXED: dict[str, tuple[Any, ...]] = {
    "qkv_bias": (True,),
    "swiglu_mlp": (False,),
    "scale_mlp": (False,),
    "patch_drop_rate": (0, 0.0),
}


@dataclasses.dataclass(frozen=True)
class BeitArguments(Shared):
    """Arguments of timm's `Beit`."""

    global_pool: str = "avg"
    use_abs_pos_emb: bool = True
    use_rel_pos_bias: bool = False
    use_shared_rel_pos_bias: bool = False
    head_init_scale: float = 0.001
    use_fc_norm: bool | None = None

    @property
    def pooled_norm(self) -> bool:
        """Whether the final norm follows the pooling."""
        return self.global_pool == "avg" if self.use_fc_norm is None else self.use_fc_norm

    def config(self) -> beit.Config:
        """Converts the arguments to a vitkit config."""
        if self.use_rel_pos_bias and self.use_shared_rel_pos_bias:
            raise ValueError("use_rel_pos_bias and use_shared_rel_pos_bias are exclusive in vitkit; set only one")
        pool: Any = POOLS.get(self.global_pool, "token")
        return beit.Config(
            **self.sizes(),
            pool=pool,
            relative="blocks" if self.use_rel_pos_bias else "shared" if self.use_shared_rel_pos_bias else "none",
            relative_resize="geometric_linear",
            position="learned" if self.use_abs_pos_emb else "none",
            position_resize="bicubic_antialias",
            norm_eps=norm_eps(self.norm_layer, self.norm_eps),
            layer_scale=self.layer_scale,
        )


class Beit(TimmViT, beit.BEiT):  # type: ignore[misc] - timm names the argument of forward x
    """BEiT with timm's arguments, methods and parameter names.

    Raises TypeError for an unknown argument, and ValueError for an option that vitkit does not have.
    """

    arguments_class = BeitArguments

    pools = ("", "avg", "token")
    hidden = ("patch_drop", "norm_pre")
    pools_message = "Only avg or token pooling (or none) is supported."
    stem = r"^cls_token|pos_embed|patch_embed|rel_pos_bias"

    @classmethod
    def config_of(cls, **kwargs: Any) -> beit.Config:
        """Converts timm's arguments to a vitkit config. Raises the errors of the constructor."""
        return bind(BeitArguments, cls.__name__, (), kwargs, FIXED).config()

    def __init__(self, *args: Any, **kwargs: Any):
        arguments = bind(BeitArguments, type(self).__name__, args, kwargs, FIXED)
        self.check_pool(arguments.global_pool, True)
        config = arguments.config()
        with torch.device("meta"):
            beit.BEiT.__init__(self, config)
            self.patch_embed = PatchEmbed(
                arguments.img_size, arguments.patch_size, arguments.in_chans, arguments.embed_dim
            )
            rates = drop_path_rates(arguments.drop_path_rate, arguments.depth)
            self.blocks = nn.ModuleList(self._block(arguments, config, rate) for rate in rates)
            arguments = dataclasses.replace(arguments, norm_eps=config.norm_eps)
            self._finish(arguments, use_fc_norm=arguments.pooled_norm)
        self.head_init_scale = arguments.head_init_scale
        self._materialize(arguments)

    @staticmethod
    def _block(arguments: BeitArguments, config: beit.Config, rate: float) -> BeitBlock:
        attention = BeitAttention(
            arguments.embed_dim,
            arguments.num_heads,
            window_size=config.grid if arguments.use_rel_pos_bias else None,
            attn_drop=arguments.attn_drop_rate,
            proj_drop=arguments.proj_drop_rate,
        )
        return BeitBlock(
            arguments.embed_dim,
            arguments.num_heads,
            mlp_ratio=arguments.mlp_ratio,
            init_values=arguments.init_values,
            proj_drop=arguments.proj_drop_rate,
            drop_path=rate,
            norm_layer=layer_norm_factory(config.norm_eps),
            attn=attention,
        )

    def block_inputs(self, grid: tuple[int, int]) -> dict[str, Any]:
        """Returns the relative position bias that is shared by all blocks, or {} if there is none."""
        if self.rel_pos_bias is None:
            return {}
        index = relative_index(self.config.grid, device=self.cls_token.device)
        return {"shared_rel_pos_bias": relative_bias(self.rel_pos_bias.relative_position_bias_table, index)}

    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, patch_size: int | tuple[int, int] | None = None
    ) -> None:
        """Changes the image size and the patch size. Resizes position embeddings, bias tables and patch projection."""
        super().set_input_size(img_size, patch_size)
        for block in self.blocks:
            block.attn.window_size = None if block.attn.window_size is None else self.config.grid

    def init_weights(self, needs_reset: bool = True) -> None:
        """Initializes weights (truncated normal). Divides the weights of output layers in block i by sqrt(2 i)."""
        beit.BEiT.init_weights(self)
        for block in self.blocks:
            block.reset_parameters()
        if isinstance(self.head, nn.Linear) and self.head_init_scale != 0.001:
            with torch.no_grad():
                for parameter in self.head.parameters():
                    parameter.mul_((self.head_init_scale or 1.0) / 0.001)

    def no_weight_decay(self) -> set[str]:
        """Returns the names of parameters without weight decay."""
        tables = {name for name, _ in self.named_parameters() if "relative_position_bias_table" in name}
        return {"pos_embed", "cls_token"} | tables
