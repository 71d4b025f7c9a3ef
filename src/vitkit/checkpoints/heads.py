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

from vitkit.checkpoints.containers import open_weights
from vitkit.checkpoints.errors import CheckpointError, listing
from vitkit.checkpoints.tensors import Tensors
from vitkit.models import Backbone, dinov3, vit

#: `pool` and `pool_blocks` by the widths of a token that a published head is wide.
READS = {1: ("token", 1), 2: ("token+gap", 1), 4: ("token", 4), 5: ("token+gap", 4)}
# DINO's own file, whose base models have class token and mean patch in turn, number by number.
INTERLEAVED = re.compile(r"(state_dict\.)?(module\.)?linear\.")
STEM = re.compile(r"((state_dict|model|module|linear|linear_head|head|fc|classifier)\.)*")


def attach(model: Backbone, path: Path, overrides: Mapping[str, Any], dtype: torch.dtype | None = torch.float32) -> str:
    """Gives the model the head of a file, in place of any it had, and returns a note of what it reads.

    `pool` and `pool_blocks` among `overrides` say it where the caller knows better. CheckpointError for a file that is
    no linear head, one of another width, and for a model whose tokens no such head can read.
    """
    config = model.config
    if not isinstance(config, vit.Config | dinov3.Config):
        family = type(config).__module__.rpartition(".")[2]
        raise CheckpointError(f"{path.name}: a head from a file is for plain ViTs, DINO, DINOv2, DINOv3, not {family}")
    if isinstance(config, vit.Config) and (config.norm != "tokens" or config.pool == "map" or config.pre_logits):
        how = f"norm='{config.norm}', pool='{config.pool}', pre_logits={config.pre_logits}"
        raise CheckpointError(
            f"{path.name}: a head from a file reads tokens behind the final norm; the model has {how}"
        )
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    tensors = open_weights(path)
    stem = _stem(path.name, tensors)
    classes, width = tensors.infos[f"{stem}weight"].shape
    pool, blocks = _reads(path.name, width, config, overrides)
    weight, bias = tensors.read(f"{stem}weight"), tensors.read(f"{stem}bias")
    inside = f"the head of {path.name} ({classes} classes) reads {_words(pool, blocks)}"
    if (pool, blocks) == ("token+gap", 1) and INTERLEAVED.fullmatch(stem):
        weight = rearrange(weight, "classes (d two) -> classes (two d)", two=2)
        inside += ", which stood in turn in the file"
    changes = {"pool": pool, "num_classes": classes, **({"pool_blocks": blocks} if blocks > 1 else {})}
    try:
        model.config = dataclasses.replace(config, **changes)
    except ValueError as error:
        raise CheckpointError(f"{path.name}: {error}") from None
    head = nn.Linear(width, classes, device="meta")
    head.load_state_dict(
        {"weight": weight.to(dtype or weight.dtype), "bias": bias.to(dtype or bias.dtype)}, assign=True
    )
    model.head = head.train(model.training)
    return inside


def _stem(file: str, tensors: Tensors) -> str:
    """What stands before `weight` and `bias` of the one linear layer in a file."""
    found = []
    for name, info in tensors.infos.items():
        stem = name.removesuffix("weight")
        bias = tensors.infos.get(f"{stem}bias")
        if stem != name and STEM.fullmatch(stem) and len(info.shape) == 2 and bias and bias.shape == info.shape[:1]:
            found.append(stem)
    if len(found) != 1:
        names = listing(list(tensors.infos), 4) or "nothing"
        raise CheckpointError(f"{file} is no linear head, one weight (classes, width) and its bias; it holds {names}")
    return found[0]


def _reads(file: str, width: int, config: Any, overrides: Mapping[str, Any]) -> tuple[str, int]:
    """`pool` and `pool_blocks`, as the caller says, else by the width of the head."""
    times, rest = divmod(width, config.width)
    if {"pool", "pool_blocks"} & set(overrides):
        pool, blocks = config.pool, getattr(config, "pool_blocks", 1)
        expected = blocks + (pool == "token+gap")
        if rest or times != expected:
            wants = expected * config.width
            raise CheckpointError(f"{file} reads vectors of {width}; {_words(pool, blocks)} make {wants}")
        return pool, blocks
    if rest or times not in READS:
        known = ", ".join(str(count * config.width) for count in READS)
        raise CheckpointError(f"{file} reads vectors of {width}; of tokens of {config.width} heads read {known}")
    pool, blocks = READS[times]
    if blocks > 1 and not hasattr(config, "pool_blocks"):
        raise CheckpointError(f"{file} reads several blocks, which heads of this family do not")
    return pool, blocks


def _words(pool: str, blocks: int) -> str:
    """What is read, as a part of a sentence."""
    tokens = "the class token" if blocks == 1 else f"the class tokens of the last {blocks} blocks"
    return {"token": tokens, "token+gap": f"{tokens} and the mean patch", "gap": "the mean patch"}.get(pool, pool)
