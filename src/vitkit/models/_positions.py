"""Position embeddings of models: creation, initialization, resizing, and positional inputs of encoder blocks.

Tables are parameters of the model itself, with timm's name if timm has one: `pos_embed` (t, rows, width), or
`pos_embed_row` and `pos_embed_column` of half the width. The first axis t is 1, or the number of layers.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.config import AnyConfig
from vitkit.layers import (
    PositionInput,
    factorized_tables,
    is_symbolic,
    resize_offsets,
    resize_tables,
    sincos2d,
    with_special_rows,
)

Position = Literal["learned", "factorized", "relative", "sincos2d", "none"]
PositionAt = Literal["stem", "layers", "shared"]
Resize = Literal["bicubic", "bicubic_antialias", "bilinear_corners", "bicubic_offset", "bilinear_antialias"]
NAMES = ("pos_embed", "pos_embed_row", "pos_embed_column")
# Supported `position_at` for each `position`; relative positions are always in the attention of every layer.
AT: dict[str, tuple[str, ...]] = {
    "learned": get_args(PositionAt),
    "factorized": get_args(PositionAt),
    "relative": ("stem",),
    "sincos2d": ("stem", "shared"),
    "none": ("stem",),
}


def check(config: AnyConfig) -> None:
    """Raises ValueError for an unsupported combination of `position`, `position_at` and `width` in a config."""
    if config.position == "factorized" and config.width % 2:
        raise ValueError(f"position='factorized' needs an even width, not {config.width}")
    at = getattr(config, "position_at", "stem")
    if at not in AT[config.position]:
        choices = " or ".join(f"'{each}'" for each in AT[config.position])
        raise ValueError(f"position_at is '{at}'; with position='{config.position}' it must be {choices}")


def add_tables(model: nn.Module, config: AnyConfig) -> None:
    """Registers the position embeddings of a config in the model: as zero parameters, or as the buffer `sincos`.

    Parameters for tables that the model does not have are None.
    """
    special = getattr(config, "num_special_positions", 0)
    count = config.depth if getattr(config, "position_at", "stem") == "layers" else 1
    rows, columns = config.grid
    shapes: dict[str, tuple[int, int, int] | None] = dict.fromkeys(NAMES)
    if config.position == "learned":
        shapes["pos_embed"] = (count, special + rows * columns, config.width)
    elif config.position == "factorized":
        shapes["pos_embed_row"] = (count, rows, config.width // 2)
        shapes["pos_embed_column"] = (count, columns, config.width // 2)
    for name, shape in shapes.items():
        model.register_parameter(name, None if shape is None else nn.Parameter(torch.zeros(shape)))
    if config.position == "sincos2d":
        model.register_buffer("sincos", sincos2d(config.grid, config.width), persistent=False)


def init_tables(model: nn.Module) -> None:
    """Initializes the trainable position embeddings as in the original code: normal with std 0.02."""
    for table in learned_tables(model).values():
        nn.init.normal_(table, std=0.02)


def learned_tables(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the trainable position embeddings of a model by parameter name."""
    candidates = {name: getattr(model, name, None) for name in NAMES}
    return {name: table for name, table in candidates.items() if table is not None}


def tables(model: nn.Module, grid: tuple[int, int]) -> Float[Tensor, "t rows d"] | None:
    """Returns the position embeddings of a model, resized to a grid of (rows, columns), or None if there are none."""
    config = config_of(model)
    learned, method = learned_tables(model), getattr(config, "position_resize", "")
    if "pos_embed" in learned:
        special = learned["pos_embed"].shape[1] - math.prod(config.grid)
        return resize_tables(learned["pos_embed"], config.grid, grid, method, special=special)
    if learned:
        return factorized_tables(learned["pos_embed_row"], learned["pos_embed_column"], grid, method)
    if config.position != "sincos2d":
        return None
    # The fixed table is computed for the grid, not resized.
    fixed = model.get_buffer("sincos")
    native = not is_symbolic(grid) and grid == config.grid
    return (fixed if native else sincos2d(grid, config.width).to(fixed))[None]


def position_inputs(model: nn.Module, blocks: nn.ModuleList, grid: tuple[int, int]) -> Iterator[PositionInput]:
    """Yields the positional input of each block: position embeddings to add, and relative position vectors."""
    config = config_of(model)
    added = tables(model, grid) if getattr(config, "position_at", "stem") != "stem" else None
    if added is not None:
        added = with_special_rows(added, math.prod(grid), config.num_special)
    block: Any
    for index, block in enumerate(blocks):
        vectors = block.attn.relative_positions
        yield PositionInput(
            added=None if added is None else added[index % added.shape[0]],
            relative=None if vectors is None else resize_offsets(vectors, config.grid, grid),
        )


def resize(model: nn.Module, config: AnyConfig) -> None:
    """Resizes all position embeddings and relative position vectors of a model to the grid of `config`."""
    old, new = config_of(model).grid, config.grid
    tables_of = {
        "pos_embed": (old, new),
        "pos_embed_row": ((old[0], 1), (new[0], 1)),
        "pos_embed_column": ((1, old[1]), (1, new[1])),
    }
    for name, table in learned_tables(model).items():
        special = table.shape[1] - math.prod(old) if name == "pos_embed" else 0
        before, after = tables_of[name]
        replace_parameter(model, name, resize_tables(table, before, after, config.position_resize, special=special))
    if getattr(config, "position", None) == "sincos2d":
        fixed = model.get_buffer("sincos")
        model.register_buffer("sincos", sincos2d(new, config.width).to(fixed), persistent=False)
    for name, table in list(model.named_parameters()):
        if name.endswith("attn.relative_positions"):
            replace_parameter(model, name, resize_offsets(table, old, new))


def replace_parameter(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Replaces the parameter of a module with the given name. `requires_grad` is kept."""
    where, _, leaf = name.rpartition(".")
    value = tensor.detach().clone(memory_format=torch.contiguous_format)
    setattr(model.get_submodule(where), leaf, nn.Parameter(value, model.get_parameter(name).requires_grad))


def config_of(model: nn.Module) -> AnyConfig:
    """Returns the config of a model from any family."""
    return model.config
