"""BEiT: a ViT that knows places by a relative position bias on its attention (Bao et al. 2021; BEiT v2 is the same).

Pre-training has one bias table for all blocks, fine-tuning one a block, which starts as a copy.
"""

import dataclasses
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
    Place,
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


@dataclass(frozen=True, kw_only=True)
class Config:
    """A BEiT; sizes are (rows, columns) in pixels.

    `relative` says where the tables of the bias are: one in each block, one shared by all, or none. `position` is a
    learned absolute table beside it, which one published model has. With `pool` "gap" the mean of the patches has the
    final norm, as in fine-tuning; with "token" every token has it and the class token is read, as in pre-training.
    `num_classes` 0 means no head, `layer_scale` None none.
    """

    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (16, 16)
    channels: int = 3
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_width: int = 3072
    num_classes: int = 1000
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
        """Refuses what cannot be built, before any memory is taken."""
        # The plain ViT of the same numbers has the same limits.
        names = ("image_size", "patch_size", "channels", "width", "depth", "num_heads", "mlp_width")
        vit.Config(**{name: getattr(self, name) for name in names})

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches at the native image size."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]


class RelativePosition(nn.Module):
    """The table of relative position biases that all blocks share."""

    def __init__(self, rows: int, num_heads: int):
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))


class BEiT(TokenBackbone):
    """Class token and patches, blocks whose attention adds a bias for every pair of tokens, mean of patches and head.

    The mask token and the head that predicts visual tokens belong to the objective, which changes what `embed` gives
    and reads what `encode` does. Parameter names are BEiT's own but for LayerScale (`ls1.gamma` is its `gamma_1`).
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
        """Class token and patches, with absolute positions only where the config has a table of them."""
        patches = self.patch_embed(images)
        grid = (patches.shape[2], patches.shape[3])
        tokens = join_tokens([self.cls_token], patches, self.positions(grid))
        return Features(tokens=self.pos_drop(tokens), grid=grid, num_special=1)

    def encode(self, embedded: Features) -> Features:
        """All blocks, each with its bias for the grid at hand, and the final norm where it is on all tokens."""
        return embedded.with_tokens(self.norm(run_blocks(self.blocks, embedded.tokens, self.places(embedded.grid))))

    def places(self, grid: tuple[int, int]) -> Iterator[Place]:
        """The bias of every block for the grid, made when its turn comes: from a table of its own, or one for all."""
        index = relative_index(grid, device=self.cls_token.device)
        tables = [*self.tables(grid).values()]
        for number in range(self.config.depth):
            yield Place(bias=relative_bias(tables[number % len(tables)], index) if tables else None)

    def positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 rows d"] | None:
        """The absolute table for a grid of that many rows and columns of patches, the class token's row first."""
        if self.pos_embed is None:
            return None
        native, dialect = self.config.grid, self.config.position_resize
        return resize_positions(self.pos_embed[0], native, grid, dialect, special=1)[None]

    def tables(self, grid: tuple[int, int]) -> dict[str, Float[Tensor, "rows h"]]:
        """The tables of relative biases by their names, made to fit the grid: one a block, one for all, or none."""
        names = [f"blocks.{index}.attn.relative_position_bias_table" for index in range(self.config.depth)]
        if self.config.relative != "blocks":
            names = ["rel_pos_bias.relative_position_bias_table"] if self.config.relative == "shared" else []
        tables = [self.get_parameter(name) for name in names]
        if not tables or grid == self.config.grid:
            return dict(zip(names, tables, strict=True))
        # One resize for all: the heads of all blocks side by side.
        wide = resize_relative(torch.cat(tuple(tables), dim=1), self.config.grid, grid, self.config.relative_resize)
        return dict(zip(names, wide.chunk(len(names), dim=1), strict=True))

    def fit(self, config: Config) -> None:
        """The tables of relative biases too."""
        tables = self.tables(config.grid)
        super().fit(config)
        for name, table in tables.items():
            _positions.put(self, name, table)

    def represent(self, features: Features) -> Float[Tensor, "b d"]:
        """The patches' mean and its norm, or the class token."""
        return self.fc_norm(pool_tokens(features, self.config.pool))

    def init_weights(self) -> None:
        """BERT's truncated normal, each block's residual branches scaled down by its depth (section 2.5; BEiT's code).

        Pre-training cuts at one standard deviation; fine-tuning does not, and starts the head near zero.
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


def for_fine_tuning(pretrained: BEiT, num_classes: int) -> BEiT:
    """A model for `num_classes` that starts where pre-training ended: a copy of the shared table in every block.

    The mean of the patches is pooled; its norm and the head are fresh, as in BEiT's own fine-tuning. Raises ValueError
    for a model whose blocks do not share a table.
    """
    config = pretrained.config
    if config.relative != "shared":
        raise ValueError(f"fine-tuning starts from relative='shared', this model has relative='{config.relative}'")
    model = BEiT(dataclasses.replace(config, relative="blocks", pool="gap", num_classes=num_classes))
    model.init_weights()
    state = pretrained.state_dict()
    table = state.pop("rel_pos_bias.relative_position_bias_table")
    kept = {name: tensor for name, tensor in state.items() if name.startswith(("blocks", "patch_embed", "cls", "pos"))}
    tables = {f"blocks.{index}.attn.relative_position_bias_table": table for index in range(config.depth)}
    model.load_state_dict(model.state_dict() | kept | tables)
    return model.to(table)


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
# "-pt" is the model as pre-trained, without classes; BEiT v2 differs in how it was, not in what it is.
PRESETS = {
    f"{name}-{size}/16{suffix}": _preset(size, image, pretraining=suffix == "-pt")
    for name, size, suffix, image in (
        *((name, size, "", 224) for name in ("beit", "beitv2") for size in ("b", "l")),
        *((name, size, "-pt", 224) for name in ("beit", "beitv2") for size in ("b", "l")),
        *(("beit", size, "-384", 384) for size in ("b", "l")),
        *(("beit", size, "-512", 512) for size in ("b", "l")),
    )
}
