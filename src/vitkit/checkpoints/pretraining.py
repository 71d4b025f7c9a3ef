"""What a published file has beside the backbone (a decoder, a mask token, heads), for pre-training that goes on.

A file's backbone is loaded as any checkpoint; what was trained with it belongs to an objective, which says under which
names it lies in whose files.
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
from vitkit.layers.dalle import WordEncoder

# What training scripts keep the weights under.
WRAPPED = (r"^(?:(?:model|state_dict|module|_orig_mod)\.)+", "")
# A token is (1, 1, d) in files, and (d,) here.
TOKEN = Transform(lambda parts: parts[0].flatten(), lambda ours, heads: [ours[None, None]])
# A dense layer on every patch is a convolution of 1x1 in files.
POINTWISE = Transform(lambda parts: parts[0].flatten(1), lambda ours, heads: [ours[:, :, None, None]])


@dataclass(frozen=True)
class Layout:
    """The names of an objective's parts in one kind of file: a key table, and what brings older names to its own."""

    table: Table
    aliases: tuple[tuple[str, str], ...] = ()


def load_parts(
    source: str, wanted: Mapping[str, Shape], layouts: Sequence[Layout], *, what: str, num_heads: int = 1
) -> dict[str, Tensor]:
    """The tensors of those names and shapes from a folder, a file or a Hub id, in float32.

    Of the layouts the one that knows most of the file's names is taken. Raises CheckpointError that names the source
    where it has none of the parts (`what` they are, in words), lacks some, or has them in other shapes.
    """
    tensors = locate(source, None).tensors
    best, known = None, tensors.under({})
    for layout in layouts:
        told = _told(tensors, layout)
        if len(told.infos) > len(known.infos):
            best, known = layout, told
    if best is None:
        raise CheckpointError(f"{source} holds no {what}: its tensors are {listing(list(tensors.infos), 5)}")
    try:
        plan = best.table.plan(wanted, known, num_heads)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: of {what}, {error}") from None
    return {step.ours: step.transform.load([known.read(name) for name in step.theirs]).float() for step in plan}


def _told(tensors: Tensors, layout: Layout) -> Tensors:
    """The tensors that the layout knows, under its names."""
    names: dict[str, str] = {}
    for old in tensors.infos:
        new = old
        for pattern, replacement in (WRAPPED, *layout.aliases):
            new = re.sub(pattern, replacement, new)
        if layout.table.knows(new):
            if new in names:
                raise CheckpointError(f"{names[new]} and {old} are two names of one tensor")
            names[new] = old
    return tensors.under(names)


def load_words(path: str | os.PathLike[str]) -> WordEncoder:
    """The encoder of a file, in evaluation mode and without gradients, its sizes read from the tensors.

    Raises CheckpointError that names every tensor that is missing, unknown or of another shape.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise CheckpointError(f"there is no file '{path}': DALL-E's encoder.pkl, or a .safetensors of its tensors")
    tensors = open_weights(file)
    first, last = (tensors.infos.get(f"blocks.{part}.w") for part in ("input", "output.conv"))
    if first is None or last is None or len(first.shape) != 4 or len(last.shape) != 4:
        raise CheckpointError(f"{file.name} is not DALL-E's encoder: it holds {listing(list(tensors.infos), 5)}")
    # Checked whole on the meta device, so that no memory is taken for a file that lies.
    with torch.device("meta"):
        model = WordEncoder(hidden=first.shape[0], words=last.shape[0], channels=first.shape[1])
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = {name: info.shape for name, info in tensors.infos.items()}
    wrong = [name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)]
    if wrong:
        raise CheckpointError(
            f"{file.name} is not DALL-E's encoder: missing, unknown or misshapen {listing(sorted(wrong))}"
        )
    state = {name: tensors.read(name).float().clone() for name in wanted}
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)
