"""Reads and writes Google's `.npz` files (vision_transformer, big_vision) as flat dicts of Flax parameters.

In memory there is one tree, with the names of the current original code (Linen numbering, position embeddings under
`Transformer/posembed_input`). Files name the same arrays in several ways: published ones have the numbering of flax
before Linen (`MultiHeadDotProductAttention_1`, `LayerNorm_2`, `MlpBlock_3`), big_vision stores position embeddings at
the root, scanned models stack the blocks, and trainers add a prefix such as `params/` or `opt/target/`. `read` renames
them by the aliases of `checkpoints.formats.google.big_vision` and returns the names of the file, in order
(`NameFormat`), with which `write` produces the same names, order and bytes.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from jax.typing import ArrayLike

from vitkit import atomic
from vitkit.checkpoints.formats.google import big_vision
from vitkit.checkpoints.formats.google.big_vision import STACKED
from vitkit.jax.convert import POSITIONS, Flat
from vitkit.regular import open_regular

PREFIXES = ("opt/target/params/", "opt/target/", "params/img/", "params/")


@dataclass(frozen=True)
class NameFormat:
    """The array names of an `.npz` file, and the library that wrote the file.

    `names` maps names in the tree to names in the file, in the order of the file; stacked blocks share one name. Arrays
    without an entry, such as a new head, are written with `prefix`. `library` is the one that wrote the file.
    """

    names: dict[str, str] = field(default_factory=dict)
    prefix: str = ""
    library: Literal["vit_jax", "big_vision"] = "vit_jax"


def read(path: str | Path) -> tuple[Flat, NameFormat]:
    """Reads an `.npz` file of Google's code. Returns the flat dict of parameters, and the array names in the file.

    Optimizer state is ignored. Raises ValueError if the file does not contain a plain ViT.
    """
    with open_regular(path) as opened, np.load(opened, allow_pickle=False) as file:
        arrays = {name: _bfloat16(file[name]) for name in file.files}
    names = list(arrays)
    prefix = next((each for each in PREFIXES if f"{each}embedding/kernel" in arrays), "")
    if f"{prefix}embedding/kernel" not in arrays:
        raise ValueError(
            f"{path} is not a ViT checkpoint of Google: it contains {names[:5]}, but no 'embedding/kernel'"
        )
    names = [name for name in names if name.startswith(prefix) and not (prefix == "" and name.startswith("opt/"))]
    if hybrid := [name for name in names if name.removeprefix(prefix).startswith(("conv_root", "block1"))]:
        raise ValueError(
            f"{path} contains '{hybrid[0]}', so it is a hybrid ViT, which vitkit.jax does not support; use PyTorch"
        )
    flat: Flat = {}
    file_names: dict[str, str] = {}
    for name in names:
        for key, array in _unstack(_canonical(name.removeprefix(prefix)), arrays[name]).items():
            if key in flat:
                raise ValueError(f"{path} contains {key} under two names, {file_names[key]} and {name}")
            flat[key], file_names[key] = array, name
    is_big_vision = any(name.removeprefix(prefix) == "pos_embedding" or STACKED in name for name in names)
    # Without a position table, only the prefix distinguishes the two libraries.
    is_big_vision = is_big_vision or (POSITIONS not in flat and prefix == "params/")
    return flat, NameFormat(names=file_names, prefix=prefix, library="big_vision" if is_big_vision else "vit_jax")


def write(path: str | Path, flat: Mapping[str, ArrayLike], name_format: NameFormat | None = None) -> None:
    """Writes parameters under the array names in `name_format`. The default names are those of vision_transformer."""
    name_format = name_format or NameFormat()
    order = [key for key in name_format.names if key in flat] + [key for key in flat if key not in name_format.names]
    groups: dict[str, list[np.ndarray]] = defaultdict(list)
    for key in order:
        groups[name_format.names.get(key, name_format.prefix + key)].append(np.asarray(flat[key]))
    stacked = {name: STACKED in name for name in groups}
    arrays: Flat = {name: np.stack(each) if stacked[name] else each[0] for name, each in groups.items()}
    atomic.write_file(Path(path), partial(_save, arrays))


def _save(arrays: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _canonical(name: str) -> str:
    """Converts an array name of a file to vitkit's name of the Flax parameter."""
    for pattern, replacement in big_vision.FORMAT.aliases:
        name = re.sub(pattern, replacement, name)
    return POSITIONS if name == "pos_embedding" else name


def _unstack(name: str, array: np.ndarray) -> Flat:
    """Splits an array with stacked blocks into one array per block. Returns other arrays unchanged."""
    if not name.startswith(STACKED):
        return {name: array}
    return {name.replace("encoderblock/", f"encoderblock_{n}/"): array[n] for n in range(array.shape[0])}


def _bfloat16(array: np.ndarray) -> np.ndarray:
    """Restores the dtype of bfloat16 arrays, which numpy reads as untyped values of two bytes."""
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else array
