"""BEiT and BEiT v2: ViTs with relative position biases (Bao et al. 2021; Peng et al. 2022).

Pre-training has one bias table for all blocks; fine-tuning has one per block, initialized as a copy of it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers import (
    ActivationName,
    Features,
    PatchEmbed,
    PositionInput,
    Taps,
    encoder_blocks,
    init_truncated,
    join_tokens,
    layer_norm,
    pool_tokens,
    relative_bias,
    relative_index,
    relative_rows,
    resize_positions,
    resize_relative,
    run_blocks,
)
from vitkit.models import TokenBackbone, _positions, vit
from vitkit.task import SINGLE_LABEL, Task


@dataclass(frozen=True, kw_only=True)
class Config:
    """Config of a BEiT model. Image size and patch size are (height, width) in pixels.

    `relative` is one table of relative position biases per block, one table shared by all blocks, or none. `position`
    is an additional absolute position table, which one published model has. With `pool="gap"` the final norm follows
    the mean of the patches, as in fine-tuning; with `pool="token"` it is applied to every token and the head reads the
    class token, as in pre-training. `num_classes` 0 means no head, `layer_scale` None no LayerScale.
    """

    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (16, 16)
    channels: int = 3
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_width: int = 3072
    num_classes: int = 1000
    task: Task = SINGLE_LABEL
    pool: Literal["gap", "token"] = "gap"
    relative: Literal["blocks", "shared", "none"] = "blocks"
    relative_resize: Literal["geometric", "geometric_linear", "bilinear"] = "geometric"
    position: Literal["learned", "none"] = "none"
    position_resize: _positions.Resize = "bicubic"
    activation: ActivationName = "gelu"
    norm_eps: float = 1e-6
    layer_scale: float | None = 0.1
    stochastic_depth: float = 0.0
    dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that the model does not support."""
        # The checks of the plain ViT with the same sizes.
        names = ("image_size", "patch_size", "channels", "width", "depth", "num_heads", "mlp_width")
        vit.Config(**{name: getattr(self, name) for name in names})

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches at the native image size."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]


class RelativePosition(nn.Module):
    """Module that holds the relative position bias table, if all blocks share one table."""

    def __init__(self, rows: int, num_heads: int):
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))


class BEiT(TokenBackbone):
    """BEiT: a ViT whose attention adds a relative position bias for every pair of tokens.

    The mask token and the head that predicts visual tokens belong to the objective, which masks the output of `embed`
    and reads the output of `encode`. Parameter names are BEiT's own except LayerScale (`ls1.gamma` for `gamma_1`).
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.width = config.width
        self.patch_embed = PatchEmbed(config.channels, config.width, config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        rows = 1 + math.prod(config.grid)
        self.pos_embed = nn.Parameter(torch.zeros(1, rows, config.width)) if config.position == "learned" else None
        self.pos_drop = nn.Dropout(config.dropout)
        distances = relative_rows(config.grid)
        self.rel_pos_bias = RelativePosition(distances, config.num_heads) if config.relative == "shared" else None
        self.blocks = encoder_blocks(
            config.depth,
            width=config.width,
            num_heads=config.num_heads,
            mlp_width=config.mlp_width,
            activation=config.activation,
            norm_eps=config.norm_eps,
            qkv_bias="qv",
            relative_rows=distances if config.relative == "blocks" else 0,
            layer_scale=config.layer_scale,
            stochastic_depth=config.stochastic_depth,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
        )
        gap = config.pool == "gap"
        self.norm = nn.Identity() if gap else layer_norm(config.width, config.norm_eps)
        self.fc_norm = layer_norm(config.width, config.norm_eps) if gap else nn.Identity()
        self.head = nn.Linear(config.width, config.num_classes) if config.num_classes else nn.Identity()

    def embed(self, images: Float[Tensor, "b c height width"]) -> Features:
        """Returns class token and patch tokens, with absolute position embeddings if the config has them."""
        patches = self.patch_embed(images)
        grid = (patches.shape[2], patches.shape[3])
        tokens = join_tokens([self.cls_token], patches, self.positions(grid))
        return Features(tokens=self.pos_drop(tokens), grid=grid, num_special=1)

    def encode(self, embedded: Features, taps: Taps | None = None) -> Features:
        """Runs tokens through all blocks, and through the final norm if the norm precedes pooling."""
        tokens = run_blocks(self.blocks, embedded.tokens, self.position_inputs(embedded.grid), taps=taps)
        return embedded.with_tokens(self.norm(tokens))

    def position_inputs(self, grid: tuple[int, int]) -> Iterator[PositionInput]:
        """Yields the relative position bias of each block for a grid, from the block's table or the shared table."""
        index = relative_index(grid, device=self.cls_token.device)
        tables = [*self.tables(grid).values()]
        for number in range(self.config.depth):
            yield PositionInput(bias=relative_bias(tables[number % len(tables)], index) if tables else None)

    def positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 rows d"] | None:
        """Returns the absolute position embeddings for a grid of (rows, columns), with the class token first."""
        if self.pos_embed is None:
            return None
        native, method = self.config.grid, self.config.position_resize
        return resize_positions(self.pos_embed[0], native, grid, method, special=1)[None]

    def tables(self, grid: tuple[int, int]) -> dict[str, Float[Tensor, "rows h"]]:
        """Returns the relative position bias tables by parameter name, resized to a grid of (rows, columns)."""
        names = [f"blocks.{index}.attn.relative_position_bias_table" for index in range(self.config.depth)]
        if self.config.relative != "blocks":
            names = ["rel_pos_bias.relative_position_bias_table"] if self.config.relative == "shared" else []
        # Not `get_parameter`: `torch.func.functional_call` replaces parameters by other tensors.
        owners = [(self.get_submodule(path), leaf) for path, _, leaf in (name.rpartition(".") for name in names)]
        tables = [getattr(owner, leaf) for owner, leaf in owners]
        if not tables or grid == self.config.grid:
            return dict(zip(names, tables, strict=True))
        # One resize for the concatenated heads of all blocks.
        wide = resize_relative(torch.cat(tuple(tables), dim=1), self.config.grid, grid, self.config.relative_resize)
        return dict(zip(names, wide.chunk(len(names), dim=1), strict=True))

    def resize_parameters(self, config: Config) -> None:
        """Resizes the patch projection, position embeddings and relative position bias tables."""
        tables = self.tables(config.grid)
        super().resize_parameters(config)
        for name, table in tables.items():
            _positions.replace_parameter(self, name, table)

    def represent(self, features: Features) -> Float[Tensor, "b d"]:
        """Returns the normalized mean of the patch tokens, or the class token, as `config.pool` selects."""
        return self.fc_norm(pool_tokens(features, self.config.pool))

    def init_weights(self) -> None:
        """Initializes weights from a truncated normal. Output layer weights of block i are divided by sqrt(2 i).

        Pre-training truncates at one standard deviation; fine-tuning does not, and scales the head down.
        """
        init_truncated(self, cut=0.02 if self.config.relative == "shared" else 2.0)
        if self.config.relative == "shared":
            nn.init.trunc_normal_(self.patch_embed.proj.weight, std=0.02, a=-0.02, b=0.02)
        with torch.no_grad():
            for number, block in enumerate(self.blocks, start=1):
                for name in ("attn.proj.weight", "mlp.fc2.weight"):
                    block.get_parameter(name).div_(math.sqrt(2 * number))
            for parameter in self.head.parameters():
                parameter.mul_(0.001)
        if self.rel_pos_bias is not None:
            nn.init.zeros_(self.rel_pos_bias.relative_position_bias_table)


Model = BEiT


def _preset(size: str, image: int = 224, *, pretraining: bool = False) -> Config:
    width, depth, num_heads, mlp_width = vit.SIZES[size]
    return Config(
        image_size=(image, image),
        width=width,
        depth=depth,
        num_heads=num_heads,
        mlp_width=mlp_width,
        num_classes=0 if pretraining else 1000,
        pool="token" if pretraining else "gap",
        relative="shared" if pretraining else "blocks",
        layer_scale=0.1 if size == "b" else 1e-5,
    )


TINY = Config(image_size=(32, 32), patch_size=(8, 8), width=32, depth=2, num_heads=2, mlp_width=64, num_classes=5)
# "-pt" is the pre-training model, without classes. BEiT v2 has the same architecture and another pre-training.
PRESETS = {
    f"{name}-{size}/16{suffix}": _preset(size, image, pretraining=suffix == "-pt")
    for name, size, suffix, image in (
        *((name, size, "", 224) for name in ("beit", "beitv2") for size in ("b", "l")),
        *((name, size, "-pt", 224) for name in ("beit", "beitv2") for size in ("b", "l")),
        *(("beit", size, "-384", 384) for size in ("b", "l")),
        *(("beit", size, "-512", 512) for size in ("b", "l")),
    )
}
