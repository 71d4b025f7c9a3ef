"""Loads the parts of pre-training models from published files: decoders, mask tokens, heads and tokenizers.

The backbone of a file is loaded like any checkpoint. Its other parts belong to an objective, which defines their names
in each file layout.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vitkit.checkpoints.checkpoint import CheckpointError, listing
from vitkit.checkpoints.containers import open_weights
from vitkit.checkpoints.locate import locate
from vitkit.checkpoints.table import Table, Transform
from vitkit.checkpoints.tensors import Shape, Tensors
from vitkit.layers.dalle import DalleEncoder
from vitkit.regular import problem

# Keys under which training scripts save the weights.
WRAPPED = (r"^(?:(?:model|state_dict|module|_orig_mod)\.)+", "")
# A token is (1, 1, d) in files and (d,) in vitkit.
TOKEN = Transform(lambda parts: parts[0].flatten(), lambda ours, heads: [ours[None, None]])
# A linear layer on every patch is a 1x1 convolution in files.
POINTWISE = Transform(lambda parts: parts[0].flatten(1), lambda ours, heads: [ours[:, :, None, None]])


@dataclass(frozen=True)
class Layout:
    """Tensor names of the parts of a pre-training model in one file format, including names of older versions."""

    table: Table
    aliases: tuple[tuple[str, str], ...] = ()


def load_parts(
    source: str, wanted: Mapping[str, Shape], layouts: Sequence[Layout], *, what: str, num_heads: int = 1
) -> dict[str, Tensor]:
    """Loads tensors from a folder, file or Hub id as float32. `wanted` maps tensor names to shapes.

    The layout that matches most names in the file is used. Raises CheckpointError if the source has none of the
    parts, or if some are missing or have other shapes; `what` describes the parts in the message.
    """
    tensors = locate(source, None).tensors
    best, known = None, tensors.select({})
    for layout in layouts:
        matched = _matched(tensors, layout)
        if len(matched.infos) > len(known.infos):
            best, known = layout, matched
    if best is None:
        raise CheckpointError(f"{source} has no {what}; its tensors are {listing(list(tensors.infos), 5)}")
    try:
        plan = best.table.plan(wanted, known, num_heads)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {what}: {error}") from None
    return {step.ours: step.transform.load([known.read(name) for name in step.theirs]).float() for step in plan}


def _matched(tensors: Tensors, layout: Layout) -> Tensors:
    """Selects the tensors that a layout lists and renames them to the names in the layout."""
    names: dict[str, str] = {}
    for old in tensors.infos:
        new = old
        for pattern, replacement in (WRAPPED, *layout.aliases):
            new = re.sub(pattern, replacement, new)
        if layout.table.matches(new):
            if new in names:
                raise CheckpointError(f"{names[new]} and {old} both map to the same tensor; keep only one of them")
            names[new] = old
    return tensors.select(names)


def load_dalle_encoder(path: str | os.PathLike[str]) -> DalleEncoder:
    """Loads DALL-E's encoder in evaluation mode, without gradients. Its sizes are inferred from the tensors.

    `path` is OpenAI's `encoder.pkl` (a pickled module, of which only the tensors are read) or any file of its tensors.
    Raises CheckpointError that lists every tensor that is missing, unknown or of another shape.
    """
    file = Path(path).expanduser()
    if wrong := problem(file):
        raise CheckpointError(f"'{path}' {wrong}; expected DALL-E's encoder.pkl or its tensors as .safetensors")
    # The published encoder.pkl is a pickled module.
    tensors = open_weights(file, inside_modules=True)
    first, last = (tensors.infos.get(f"blocks.{part}.w") for part in ("input", "output.conv"))
    if first is None or last is None or len(first.shape) != 4 or len(last.shape) != 4:
        raise CheckpointError(f"{file.name} is not DALL-E's encoder; its tensors are {listing(list(tensors.infos), 5)}")
    # Check all shapes on the meta device first, to allocate no memory for an invalid file.
    with torch.device("meta"):
        model = DalleEncoder(hidden=first.shape[0], vocabulary=last.shape[0], channels=first.shape[1])
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = {name: info.shape for name, info in tensors.infos.items()}
    wrong = [name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)]
    if wrong:
        raise CheckpointError(
            f"{file.name} is not DALL-E's encoder; these tensors are missing, unknown or of the wrong shape: "
            f"{listing(sorted(wrong))}"
        )
    state = {name: tensors.read(name).float().clone() for name in wanted}
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)
