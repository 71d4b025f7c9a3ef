"""The table of timm's architectures: model arguments, and settings of the published weights by tag.

`scripts/timm_architectures.py` writes `architectures.json` from an installed timm. Architectures with layers that
vitkit does not have are listed with the layer that is missing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from vitkit.config import JsonDict


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A timm architecture: its module, model arguments and published weights.

    `module` is its module in `timm.models`, `arguments` are the model arguments that differ from the defaults of the
    model class. `weights` has the `pretrained_cfg` of each tag, without architecture and tag, in timm's order: the
    first tag is the default.
    """

    name: str
    module: str
    arguments: JsonDict
    weights: Mapping[str, JsonDict]


@cache
def _table() -> dict[str, Any]:
    return json.loads(files("vitkit.checkpoints.formats.timm").joinpath("architectures.json").read_text("utf-8"))


@cache
def architectures() -> dict[str, Architecture]:
    """Returns the supported architectures by name."""
    defaults = _table()["defaults"]
    return {
        name: Architecture(
            name=name,
            module=row["module"],
            arguments=row["arguments"],
            weights={tag: {**defaults[row["module"]], **cfg} for tag, cfg in row["weights"].items()},
        )
        for name, row in _table()["architectures"].items()
    }


def unsupported() -> dict[str, str]:
    """Returns the names of timm's unsupported architectures, each mapped to the layer that vitkit does not have."""
    return _table()["unsupported"]


def deprecated() -> dict[str, str]:
    """Returns the deprecated names of architectures, each mapped to the current name with a tag."""
    return _table()["deprecated"]


def architecture(name: str) -> Architecture | None:
    """Returns an architecture by its name, which may have a tag or be deprecated. Returns None for unknown names."""
    plain = name.partition(".")[0]
    return architectures().get(deprecated().get(plain, plain).partition(".")[0])
