"""Google's `.npz` files, both originals (vision_transformer, big_vision), read and written without a tensor of PyTorch.

In memory there is one tree, with the names that the current original code gives (Linen numbering, the position table
under `Transformer/posembed_input`), because modules, conversion, decay masks and shardings can then be written once.
The files spell it in many ways: published ones number from before Linen (`MultiHeadDotProductAttention_1`,
`LayerNorm_2`, `MlpBlock_3`), big_vision has its table at the root, its scanned files stack the blocks, trainers put
`params/` or `opt/target/` in front. So reading renames by the rules below and records, key for key and in order, how
the file spelled it (`Spelling`); writing with that record gives back the same names, order and bytes.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vitkit import atomic
from vitkit.jax.convert import Flat

PREFIXES = ("opt/target/params/", "opt/target/", "params/img/", "params/")
POSITIONS = "Transformer/posembed_input/pos_embedding"
STACKED = "Transformer/encoderblock/"


@dataclass(frozen=True)
class Spelling:
    """How a file spells the tree: for each canonical name, in the file's order, the name the file has.

    Blocks that a file stacks share the file's name. Names that are not here (a new head, say) are written as they are,
    behind `prefix`. `dialect` is `vit_jax` or `big_vision`.
    """

    names: dict[str, str] = field(default_factory=dict)
    prefix: str = ""
    dialect: str = "vit_jax"


def read(path: str | Path) -> tuple[Flat, Spelling]:
    """The flat tree of a Google file, and how the file spells it.

    Optimiser state beside the weights is left out. ValueError where the file is not of a plain ViT.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: _bfloat16(file[name]) for name in file.files}
    names = list(arrays)
    prefix = next((each for each in PREFIXES if f"{each}embedding/kernel" in arrays), "")
    if f"{prefix}embedding/kernel" not in arrays:
        raise ValueError(
            f"{path} holds no 'embedding/kernel': not a Vision Transformer of Google's; it has {names[:5]}"
        )
    names = [name for name in names if name.startswith(prefix) and not (prefix == "" and name.startswith("opt/"))]
    if hybrid := [name for name in names if name.removeprefix(prefix).startswith(("conv_root", "block1"))]:
        raise ValueError(f"{path} is a hybrid (it has '{hybrid[0]}'): the Flax twin covers the plain ViT; use PyTorch")
    renamed = _canonical([name.removeprefix(prefix) for name in names])
    flat: Flat = {}
    spelled: dict[str, str] = {}
    for name, canonical in zip(names, renamed, strict=True):
        for key, array in _unstack(canonical, arrays[name]).items():
            flat[key], spelled[key] = array, name
    big_vision = any(name.removeprefix(prefix) == "pos_embedding" or STACKED in name for name in names)
    # With a fixed table nothing tells the two apart but the trainer's prefix.
    big_vision = big_vision or (POSITIONS not in flat and prefix == "params/")
    return flat, Spelling(names=spelled, prefix=prefix, dialect="big_vision" if big_vision else "vit_jax")


def write(path: str | Path, flat: Mapping[str, Any], spelling: Spelling | None = None) -> None:
    """Writes a flat tree under the names of `spelling`: those of the current vision_transformer code without one."""
    spelling = spelling or Spelling()
    order = [key for key in spelling.names if key in flat] + [key for key in flat if key not in spelling.names]
    groups: dict[str, list[np.ndarray]] = defaultdict(list)
    for key in order:
        groups[spelling.names.get(key, spelling.prefix + key)].append(np.asarray(flat[key]))
    stacked = {name: STACKED in name for name in groups}
    arrays: dict[str, Any] = {name: np.stack(each) if stacked[name] else each[0] for name, each in groups.items()}
    atomic.write_file(Path(path), partial(_save, arrays))


def _save(arrays: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _canonical(names: list[str]) -> list[str]:
    """Names with Linen's numbering: within a module, children of each class count from 0 in their natural order."""
    children: dict[str, set[str]] = defaultdict(set)
    for name in names:
        parts = name.split("/")
        for index in range(len(parts)):
            children["/".join(parts[:index])].add(parts[index])
    result = []
    for name in names:
        parts = name.split("/")
        new = [_renumber(part, children["/".join(parts[:index])]) for index, part in enumerate(parts)]
        result.append(_moved("/".join(new)))
    return result


def _renumber(part: str, siblings: set[str]) -> str:
    found = re.fullmatch(r"(.*)_(\d+)", part)
    if not found or found[1] == "encoderblock":
        return part
    same_class = [re.fullmatch(rf"{found[1]}_(\d+)", each) for each in siblings]
    numbers = sorted(int(each[1]) for each in same_class if each)
    return f"{found[1]}_{numbers.index(int(found[2]))}"


def _moved(name: str) -> str:
    return POSITIONS if name in ("pos_embedding", "Transformer/pos_embedding") else name


def _unstack(name: str, array: np.ndarray) -> Flat:
    """A leaf of scanned blocks, one a block; any other leaf as it is."""
    if not name.startswith(STACKED):
        return {name: array}
    return {name.replace("encoderblock/", f"encoderblock_{n}/"): array[n] for n in range(array.shape[0])}


def _bfloat16(array: np.ndarray) -> np.ndarray:
    """numpy reads bfloat16 as two untyped bytes."""
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else array
