"""Checkpoint formats. There is one module per library and model family.

Each module has a `FORMAT`: a two-way table of tensor names plus the values that tensors do not store: activation,
LayerNorm epsilon and preprocessing. To support another family of a library, add a file with the same `targets`; no
other file changes.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vitkit import discovery
from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.json_files import Json
from vitkit.checkpoints.table import Table
from vitkit.checkpoints.tensors import Tensors
from vitkit.config import nearest
from vitkit.data.processor import Processor
from vitkit.discovery import Component, PluginError
from vitkit.references import parse, resolve
from vitkit.registry import warn_left_out


@dataclass(frozen=True, kw_only=True)
class RawCheckpoint:
    """The tensors and JSON files of a checkpoint whose format is known. Tensor values have not been read.

    `tensors` have the format's names. `file_name` and `wrapper` (the prefix that was removed from every name, such as
    `teacher.`) identify variants that nothing else distinguishes. `overrides` are config fields set by the caller,
    `image_size` is (height, width) in pixels.
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
    """The model config, processor, labels (None if the files have none) and notes read from a checkpoint."""

    config: Any
    processor: Processor
    labels: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Format:
    """A checkpoint format of one library for one model family.

    name                unique name, saved as `Origin.format`
    targets             values of `to=` that select this format, or () for a read-only format; if several formats have
                        the same target, the first one that supports the model is written
    family              the family in `models` that it stores, None for any
    table               vitkit's tensor names and the format's
    anchors             patterns of names that every file has; a prefix before the first is a wrapper
    aliases             patterns and replacements from names of other library versions to those of the table
    ignored             patterns of ignored names, each with a description, and optionally with a second pattern: the
                        entry applies only if the second pattern matches one of the names
    suffix              suffix of the single file it writes; "" for a folder
    accepts             whether the config.json (None: missing) may belong to this format
    arrange             converts tensors that the table cannot map as stored (stacked layers)
    describe            reads config, processor and labels
    unsupported_reason  why a config cannot be stored, and which format can store it; None if it can
    write               writes a checkpoint to a new file or into a new folder
    """

    name: str
    targets: tuple[str, ...]
    family: str | None
    table: Table
    anchors: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    ignored: tuple[tuple[str, ...], ...] = ()
    suffix: str = ""
    accepts: Callable[[Json | None], bool]
    arrange: Callable[[Tensors], Tensors] = lambda tensors: tensors
    describe: Callable[[RawCheckpoint], Description]
    unsupported_reason: Callable[[Any], str | None]
    write: Callable[[Checkpoint, Path], None]


@cache
def builtin_formats() -> tuple[Format, ...]:
    """Returns every format in this folder and its subfolders, sorted by name."""
    modules = pkgutil.walk_packages(__path__, f"{__name__}.")
    names = [each.name for each in modules if not each.ispkg and not each.name.rpartition(".")[2].startswith("_")]
    return tuple(sorted((importlib.import_module(name).FORMAT for name in names), key=lambda each: each.name))


def all_formats() -> tuple[Format, ...]:
    """Returns every format, sorted by name. Invalid formats of plug-ins are left out with a warning."""
    found = {each.name: each for each in builtin_formats()}
    for component in discovery.components("format").values():
        try:
            layout = plugin_format(component)
            if layout.name in found:
                raise PluginError(f"the format '{layout.name}' of {component.origin}, a name that another format has")
        except PluginError as error:
            warn_left_out(str(error))
        else:
            found[layout.name] = layout
    return tuple(sorted(found.values(), key=lambda each: each.name))


def plugin_format(component: Component) -> Format:
    """Returns the format of a plug-in. Raises PluginError unless it is a `Format` with a target."""
    layout = getattr(component.target, "FORMAT", component.target)
    where = f"'{component.name}' of {component.origin}"
    if not isinstance(layout, Format):
        raise PluginError(f"{where} is not a checkpoint format: it is {layout!r}; expected a Format")
    if not layout.targets:
        raise PluginError(f"{where} is a checkpoint format without targets; expected targets=('{layout.name}',)")
    return layout


def list_formats() -> list[str]:
    """Returns the format names that the arguments `to=` and `format=` accept."""
    return sorted({target for each in all_formats() for target in each.targets})


def formats_for(target: str) -> list[Format]:
    """Returns the formats that the name `target` selects for `to=` and `format=`.

    The format named `target` is first. A format in a plug-in file is selected as `./mine.py`. Raises ValueError for an
    unknown target.
    """
    if parse(target):
        component = discovery.component("format", resolve("format", target))
        target = plugin_format(component).targets[0] if component is not None else target
    selected = [each for each in all_formats() if target in each.targets]
    if not selected:
        raise ValueError(f"unknown format '{target}'{nearest(target, list_formats())}")
    return sorted(selected, key=lambda each: (each.targets.index(target), each.name != target))
