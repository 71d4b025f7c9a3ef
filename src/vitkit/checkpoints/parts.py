"""What a published file has beside the backbone (a decoder, a mask token, heads), for pre-training that goes on.

A file's backbone is loaded as any checkpoint; what was trained with it belongs to an objective, which says under which
names it lies in whose files.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from vitkit.checkpoints.errors import CheckpointError, listing
from vitkit.checkpoints.locate import locate
from vitkit.checkpoints.table import Table, Transform
from vitkit.checkpoints.tensors import Shape, Tensors

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
