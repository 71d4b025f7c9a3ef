"""A linear head from a file of its own, as DINO, DINOv2 and DINOv3 publish theirs apart from the backbone.

Such a file has one matrix and its bias. What the matrix reads is told by its width in widths of a token: DINO's small
models the class tokens of the last four blocks; DINO's base models, DINOv2 and DINOv3 the class token and the mean
patch of the last; DINOv2's `linear4` both (Caron et al. 2021, section 4.1; Oquab et al. 2023, appendix B.3).
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import nn

from vitkit.checkpoints.checkpoint import CheckpointError, listing
from vitkit.checkpoints.containers import open_weights
from vitkit.checkpoints.infer.vit import parse_overrides
from vitkit.checkpoints.tensors import Info, Tensors
from vitkit.models import Backbone, dinov3, pooling, vit

#: What of a config says what a head reads.
FIELDS = ("pool", "pool_blocks")
#: Both by the widths of a token that a published head is wide.
READS = {1: ("token", 1), 2: ("token+gap", 1), 4: ("token", 4), 5: ("token+gap", 4)}
# As DINO's own evaluation saves it: where class token and mean patch are read, they stand in turn, number by number.
INTERLEAVED = "state_dict.module.linear."
STEM = re.compile(r"((state_dict|model|module|linear|linear_head|head|fc|classifier)\.)*")


def attach(model: Backbone, path: Path, overrides: Mapping[str, Any], dtype: torch.dtype | None = torch.float32) -> str:
    """Gives the model the head of a file, in place of any it had, and returns a note of what it reads.

    What it reads is what `pool` and `pool_blocks` among `overrides` say; else what the model reads, if that is as wide
    as the head; else what a published head of that width reads. A `dtype` of None is the model's. CheckpointError for a
    file that is no linear head, one of another width, and for a model whose tokens no such head can read; the model is
    then as it was.
    """
    _check(model.config, path.name)
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    tensors = open_weights(path)
    stem = _stem(path.name, tensors)
    classes, width = tensors.infos[f"{stem}weight"].shape
    config = _config(path.name, model.config, width, overrides)
    weight, bias = (
        tensors.read(f"{stem}{leaf}").to(dtype or next(model.parameters()).dtype) for leaf in ("weight", "bias")
    )
    reads = f"reads {_words(config)}"
    if (config.pool, pooling.blocks(config)) == ("token+gap", 1) and stem == INTERLEAVED:
        weight = rearrange(weight, "classes (d two) -> classes (two d)", two=2)
        reads += ", which stand in turn in the file"
    had = model.config.num_classes
    instead = f" and takes the place of one of {had} classes" if had else ""
    head = nn.Linear(width, classes, device="meta")
    head.load_state_dict({"weight": weight.contiguous(), "bias": bias.contiguous()}, assign=True)
    model.head, model.config = head.train(model.training), dataclasses.replace(config, num_classes=classes)
    return f"the head of {path.name} ({classes} classes) {reads}{instead}"


def _check(config: Any, file: str) -> None:
    """CheckpointError where the model has no tokens behind a final norm for a head to read."""
    if not isinstance(config, vit.Config | dinov3.Config):
        family = type(config).__module__.rpartition(".")[2]
        raise CheckpointError(f"{file}: a head from a file is for ViTs, hybrids, DINO, DINOv2 and DINOv3, not {family}")
    if isinstance(config, vit.Config) and (config.norm != "tokens" or config.pool == "map" or config.pre_logits):
        how = f"norm='{config.norm}', pool='{config.pool}', pre_logits={config.pre_logits}"
        raise CheckpointError(f"{file}: a head from a file reads tokens behind the final norm, but the model has {how}")


def _stem(file: str, tensors: Tensors) -> str:
    """What stands before `weight` and `bias` of the one linear layer in a file."""
    stems = [name.removesuffix("weight") for name in tensors.infos if name.endswith("weight")]
    found = [stem for stem in stems if STEM.fullmatch(stem) and _is_layer(tensors.infos, stem)]
    if len(found) != 1:
        names = listing(list(tensors.infos), 4) or "nothing"
        raise CheckpointError(f"{file} is no linear head, one weight (classes, width) and its bias; it holds {names}")
    return found[0]


def _is_layer(infos: Mapping[str, Info], stem: str) -> bool:
    """Whether weight and bias of that name are those of a linear layer."""
    weight, bias = infos[f"{stem}weight"], infos.get(f"{stem}bias")
    if bias is None or len(weight.shape) != 2 or bias.shape != weight.shape[:1] or 0 in weight.shape:
        return False
    return weight.dtype.is_floating_point and bias.dtype.is_floating_point


def _config(file: str, config: Any, width: int, overrides: Mapping[str, Any]) -> Any:
    """The config with what a head of that width reads."""
    stated = {name: value for name, value in overrides.items() if name in FIELDS}
    if stated:
        config = _replaced(file, config, parse_overrides(type(config), stated))
    elif pooling.width(config) != width:
        times, rest = divmod(width, config.width)
        if rest or times not in READS:
            known = ", ".join(str(count * config.width) for count in READS)
            raise CheckpointError(f"{file} reads vectors of {width}; of tokens of {config.width} heads read {known}")
        changes: dict[str, Any] = dict(zip(FIELDS, READS[times], strict=True))
        if not hasattr(config, "pool_blocks") and changes.pop("pool_blocks") != 1:
            raise CheckpointError(f"{file} reads several blocks, which heads of this family do not")
        config = _replaced(file, config, changes)
    if pooling.width(config) != width:
        raise CheckpointError(
            f"{file} reads vectors of {width}, but of {_words(config)} they are {pooling.width(config)}"
        )
    return config


def _replaced(file: str, config: Any, changes: Mapping[str, Any]) -> Any:
    try:
        return dataclasses.replace(config, **changes)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None


def _words(config: Any) -> str:
    """What is read, as a part of a sentence."""
    tokens = (
        "the class token"
        if pooling.blocks(config) == 1
        else f"the class tokens of the last {pooling.blocks(config)} blocks"
    )
    words = {
        "token": tokens,
        "token+gap": f"{tokens} and the mean patch",
        "gap": "the mean patch",
        "none": "all tokens",
    }
    return words[config.pool]
