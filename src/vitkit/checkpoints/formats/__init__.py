"""Formats: one file per foreign dialect and family, each with a `FORMAT`; found by file name.

A format is a two-way key table and the few facts that tensors do not tell: which activation, which epsilon, which
preprocessing. A family of models that a library also writes adds its own file here, with the same `targets`, and edits
none of the others.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.table import Table
from vitkit.checkpoints.tensors import Tensors
from vitkit.config import nearest
from vitkit.data.processor import Processor

Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Found:
    """A checkpoint whose format is known and whose values are unread: `tensors` have the format's own names.

    `file_name` and `wrapper` (what stood before every name, as `teacher.`) serve where nothing else tells variants
    apart. `overrides` are fields of the model's config that the caller states, `image_size` the size in pixels.
    """

    tensors: Tensors
    config: Json | None = None
    preprocessor: Json | None = None
    file_name: str = ""
    wrapper: str = ""
    overrides: Json
    image_size: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a format makes of a file: the model's config, the preprocessing, names of classes if it has them, notes."""

    config: Any
    processor: Processor
    labels: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Format:
    """One dialect of checkpoint for one family of models.

    name          unique; the name of its file
    targets       the words of `to=` that mean it; of several formats the first that can express a model is written
    family        the family of `models` it holds, None for any
    table         our names and theirs
    anchors       patterns of names that every file of the format has; what stands before the first is a wrapper
    aliases       patterns and replacements that bring other generations' names to those of the table
    ignored       patterns of names that are left out, and what they are
    suffix        of the one file it writes; "" for a folder
    accepts       whether a config.json beside the weights may belong to it (None: there is none)
    arrange       tensors that the table does not take as they are, made so (stacked layers)
    describe      the config and the rest
    obstacle      why it cannot express a config and what can, as a sentence; None where it can
    write         the checkpoint to a new file, or into a new folder
    """

    name: str
    targets: tuple[str, ...]
    family: str | None
    table: Table
    anchors: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()
    suffix: str = ""
    accepts: Callable[[Json | None], bool]
    arrange: Callable[[Tensors], Tensors] = lambda tensors: tensors
    describe: Callable[[Found], Description]
    obstacle: Callable[[Any], str | None]
    write: Callable[[Checkpoint, Path], None]


@cache
def all_formats() -> tuple[Format, ...]:
    """Every format of this folder, in the order of their names."""
    found = pkgutil.walk_packages(__path__, f"{__name__}.")
    names = [each.name for each in found if not each.ispkg and not each.name.rpartition(".")[2].startswith("_")]
    return tuple(sorted((importlib.import_module(name).FORMAT for name in names), key=lambda each: each.name))


def targets() -> list[str]:
    """The words that `to=` and `format=` take."""
    return sorted({target for each in all_formats() for target in each.targets})


def named(target: str) -> list[Format]:
    """The formats that a word means, that of the same name first; ValueError for a word that means none."""
    found = [each for each in all_formats() if target in each.targets]
    if not found:
        raise ValueError(f"unknown format '{target}'{nearest(target, targets())}")
    return sorted(found, key=lambda each: (each.targets.index(target), each.name != target))
