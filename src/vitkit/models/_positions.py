"""What families share about position tables: making them, fitting them to a grid, and telling blocks of them.

Tables are parameters of the model itself, with timm's name where timm has one: `pos_embed` (t, rows, width), or
`pos_embed_row` and `pos_embed_column` of half the width. There is one table, or one for each layer (t).
"""

import math
from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers import (
    Place,
    factorised_tables,
    resize_offsets,
    resize_tables,
    sincos2d,
    with_special_rows,
)

Position = Literal["learned", "factorised", "relative", "sincos2d", "none"]
PositionAt = Literal["stem", "layers", "shared"]
Resize = Literal["bicubic", "bicubic_antialias", "bilinear_corners", "bicubic_offset", "bilinear_antialias"]
NAMES = ("pos_embed", "pos_embed_row", "pos_embed_column")
# Where each kind can be added; relative ones are in every layer's attention whatever this says.
AT: dict[str, tuple[str, ...]] = {
    "learned": get_args(PositionAt),
    "factorised": get_args(PositionAt),
    "relative": ("stem",),
    "sincos2d": ("stem", "shared"),
    "none": ("stem",),
}


def check(config: Any) -> None:
    """ValueError for positions that cannot be: `position`, `position_at` and `width` of a model's config."""
    if config.position == "factorised" and config.width % 2:
        raise ValueError(f"position='factorised' halves the width, but {config.width} is odd")
    at = getattr(config, "position_at", "stem")
    if at not in AT[config.position]:
        able = " or ".join(f"'{place}'" for place in AT[config.position])
        raise ValueError(f"position_at is '{at}'; with position='{config.position}' it can be {able}")


def add_tables(model: nn.Module, config: Any) -> None:
    """Gives the model the tables of its config, zeros yet: parameters, or the buffer `sincos`; None for the others."""
    special = getattr(config, "num_special_positions", 0)
    count = config.depth if getattr(config, "position_at", "stem") == "layers" else 1
    rows, columns = config.grid
    shapes: dict[str, tuple[int, int, int] | None] = dict.fromkeys(NAMES)
    if config.position == "learned":
        shapes["pos_embed"] = (count, special + rows * columns, config.width)
    elif config.position == "factorised":
        shapes["pos_embed_row"] = (count, rows, config.width // 2)
        shapes["pos_embed_column"] = (count, columns, config.width // 2)
    for name, shape in shapes.items():
        model.register_parameter(name, None if shape is None else nn.Parameter(torch.zeros(shape)))
    if config.position == "sincos2d":
        model.register_buffer("sincos", sincos2d(config.grid, config.width), persistent=False)


def init_tables(model: nn.Module) -> None:
    """Learned tables as the original code draws them: normal with a deviation of 0.02."""
    for table in held(model).values():
        nn.init.normal_(table, std=0.02)


def held(model: nn.Module) -> dict[str, nn.Parameter]:
    """The learned tables that the model has, by their names."""
    found = {name: getattr(model, name, None) for name in NAMES}
    return {name: table for name, table in found.items() if table is not None}


def tables(model: nn.Module, grid: tuple[int, int]) -> Float[Tensor, "t rows d"] | None:
    """All tables for a grid of that many rows and columns of patches, special rows first; None where there are none."""
    config = config_of(model)
    learned, dialect = held(model), getattr(config, "position_resize", "")
    if "pos_embed" in learned:
        special = learned["pos_embed"].shape[1] - math.prod(config.grid)
        return resize_tables(learned["pos_embed"], config.grid, grid, dialect, special=special)
    if learned:
        return factorised_tables(learned["pos_embed_row"], learned["pos_embed_column"], grid, dialect)
    if config.position != "sincos2d":
        return None
    # Not resized but computed: the table is a formula.
    fixed = model.get_buffer("sincos")
    return (fixed if grid == config.grid else sincos2d(grid, config.width).to(fixed))[None]


def places(model: nn.Module, blocks: nn.ModuleList, grid: tuple[int, int]) -> Iterator[Place]:
    """What each block is told where positions are not added at the stem: its table, its vectors for all offsets."""
    config = config_of(model)
    added = tables(model, grid) if getattr(config, "position_at", "stem") != "stem" else None
    if added is not None:
        added = with_special_rows(added, math.prod(grid), config.num_special)
    block: Any
    for index, block in enumerate(blocks):
        vectors = block.attn.relative_positions
        yield Place(
            added=None if added is None else added[index % added.shape[0]],
            relative=None if vectors is None else resize_offsets(vectors, config.grid, grid),
        )


def fit(model: nn.Module, config: Any) -> None:
    """Makes every tensor of positions that the model holds fit the grid of another config, which is not yet its own."""
    old, new = config_of(model).grid, config.grid
    tables_of = {
        "pos_embed": (old, new),
        "pos_embed_row": ((old[0], 1), (new[0], 1)),
        "pos_embed_column": ((1, old[1]), (1, new[1])),
    }
    for name, table in held(model).items():
        special = table.shape[1] - math.prod(old) if name == "pos_embed" else 0
        before, after = tables_of[name]
        put(model, name, resize_tables(table, before, after, config.position_resize, special=special))
    if getattr(config, "position", None) == "sincos2d":
        fixed = model.get_buffer("sincos")
        model.register_buffer("sincos", sincos2d(new, config.width).to(fixed), persistent=False)
    for name, table in list(model.named_parameters()):
        if name.endswith("attn.relative_positions"):
            put(model, name, resize_offsets(table, old, new))


def put(model: nn.Module, name: str, tensor: Tensor) -> None:
    """A new parameter in place of the one of that name."""
    where, _, leaf = name.rpartition(".")
    value = tensor.detach().clone(memory_format=torch.contiguous_format)
    setattr(model.get_submodule(where), leaf, nn.Parameter(value, model.get_parameter(name).requires_grad))


def config_of(model: nn.Module) -> Any:
    """The config of a model of any family."""
    return model.config
