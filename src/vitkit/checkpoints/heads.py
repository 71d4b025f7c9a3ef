"""Loads linear heads from separate files, such as those published for DINO, DINOv2 and DINOv3.

Such a file has one weight matrix and its bias. The input of the head follows from its width, as a multiple of the
token width: class tokens of the last four blocks (4: DINO's small models), class token and mean patch token of the last
block (2: DINO's base models, DINOv2, DINOv3), or class tokens of four blocks and mean patch token (5: DINOv2's
`linear4`). See Caron et al. 2021, section 4.1, and Oquab et al. 2023, appendix B.3.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import nn

from vitkit import models
from vitkit.checkpoints.checkpoint import CheckpointError, listing
from vitkit.checkpoints.containers import open_weights
from vitkit.checkpoints.infer.vit import parse_overrides
from vitkit.checkpoints.tensors import Info, Tensors
from vitkit.models import Backbone, _pooling, dinov3, vit
from vitkit.regular import problem

#: Config fields that define the input of a head.
FIELDS = ("pool", "pool_blocks")
#: (pool, pool_blocks) of published heads by their width in token widths.
POOL_BY_WIDTH = {1: ("token", 1), 2: ("token+gap", 1), 4: ("token", 4), 5: ("token+gap", 4)}
# DINO's evaluation code saves class token and mean patch token interleaved, element by element.
INTERLEAVED = "state_dict.module.linear."
STEM = re.compile(r"((state_dict|model|module|linear|linear_head|head|fc|classifier)\.)*")


def attach(model: Backbone, path: Path, overrides: Mapping[str, Any], dtype: torch.dtype | None = torch.float32) -> str:
    """Replaces the head of a model with the head in a file. Returns a note that describes the input of the new head.

    The input is set by `pool` and `pool_blocks` in `overrides`; else it is the input of the model's current head if the
    widths match; else that of a published head of this width. `dtype=None` uses the dtype of the model. Raises
    CheckpointError, without changing the model, if the file is not a linear head, its width does not match, or the
    model does not support such heads.
    """
    _check(model.config, path.name)
    if wrong := problem(path):
        raise CheckpointError(f"the file with the head {wrong}: {path}")
    tensors = open_weights(path)
    stem = _stem(path.name, tensors)
    classes, width = tensors.infos[f"{stem}weight"].shape
    config = _config(path.name, model.config, width, overrides)
    weight, bias = (
        tensors.read(f"{stem}{leaf}").to(dtype or next(model.parameters()).dtype) for leaf in ("weight", "bias")
    )
    reads = f"reads {_describe(config)}"
    if (config.pool, _pooling.blocks(config)) == ("token+gap", 1) and stem == INTERLEAVED:
        weight = rearrange(weight, "classes (d two) -> classes (two d)", two=2)
        reads += ", interleaved in the file"
    had = model.config.num_classes
    instead = f" and replaces a head with {had} classes" if had else ""
    head = nn.Linear(width, classes, device="meta")
    head.load_state_dict({"weight": weight.contiguous(), "bias": bias.contiguous()}, assign=True)
    model.head, model.config = (
        head.train(model.training),
        dataclasses.replace(config, num_classes=classes, task=config.task.for_new_head()),
    )
    return f"the head of {path.name} ({classes} classes) {reads}{instead}"


def _check(config: Any, file: str) -> None:
    """Raises CheckpointError unless a head from a file can use the model's tokens after the final norm as input."""
    if not isinstance(config, vit.Config | dinov3.Config):
        family = models.family_of(config)
        raise CheckpointError(
            f"{file}: a head file can be used with a ViT, hybrid, DINO, DINOv2 or DINOv3 model only, not with {family}"
        )
    if isinstance(config, vit.Config) and (config.norm != "tokens" or config.pool == "map" or config.pre_logits):
        how = f"norm='{config.norm}', pool='{config.pool}', pre_logits={config.pre_logits}"
        raise CheckpointError(f"{file}: a head from a file needs tokens after the final norm, but the model has {how}")


def _stem(file: str, tensors: Tensors) -> str:
    """Returns the name prefix of the only linear layer in a file."""
    stems = [name.removesuffix("weight") for name in tensors.infos if name.endswith("weight")]
    found = [stem for stem in stems if STEM.fullmatch(stem) and _is_layer(tensors.infos, stem)]
    if len(found) != 1:
        names = listing(list(tensors.infos), 4) or "nothing"
        raise CheckpointError(f"{file} is not a linear head (one weight (classes, width) and its bias); it has {names}")
    return found[0]


def _is_layer(infos: Mapping[str, Info], stem: str) -> bool:
    """Returns whether the weight and bias with this name prefix belong to a linear layer."""
    weight, bias = infos[f"{stem}weight"], infos.get(f"{stem}bias")
    if bias is None or len(weight.shape) != 2 or bias.shape != weight.shape[:1] or 0 in weight.shape:
        return False
    return weight.dtype.is_floating_point and bias.dtype.is_floating_point


def _config(file: str, config: Any, width: int, overrides: Mapping[str, Any]) -> Any:
    """Returns the config with the `pool` and `pool_blocks` that give the head an input of width `width`."""
    given = {name: value for name, value in overrides.items() if name in FIELDS}
    if given:
        config = _replaced(file, config, parse_overrides(type(config), given))
    elif _pooling.width(config) != width:
        times, rest = divmod(width, config.width)
        if rest or times not in POOL_BY_WIDTH:
            known = ", ".join(str(count * config.width) for count in POOL_BY_WIDTH)
            raise CheckpointError(
                f"the head in {file} has input width {width}; expected one of {known}, because tokens have width "
                f"{config.width}"
            )
        changes: dict[str, Any] = dict(zip(FIELDS, POOL_BY_WIDTH[times], strict=True))
        if not hasattr(config, "pool_blocks") and changes.pop("pool_blocks") != 1:
            raise CheckpointError(
                f"the head in {file} has input width {width}, but in this model family a head reads only the last block"
            )
        config = _replaced(file, config, changes)
    if _pooling.width(config) != width:
        raise CheckpointError(
            f"the head in {file} has input width {width}, but the model's head input ({_describe(config)}) has width "
            f"{_pooling.width(config)}"
        )
    return config


def _replaced(file: str, config: Any, changes: Mapping[str, Any]) -> Any:
    try:
        return dataclasses.replace(config, **changes)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None


def _describe(config: Any) -> str:
    """Returns a description of the input of a head, such as "the class token"."""
    tokens = (
        "the class token"
        if _pooling.blocks(config) == 1
        else f"the class tokens of the last {_pooling.blocks(config)} blocks"
    )
    names = {
        "token": tokens,
        "token+gap": f"{tokens} and the mean patch token",
        "gap": "the mean patch token",
        "none": "all tokens",
    }
    return names[config.pool]
