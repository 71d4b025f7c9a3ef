"""Table lines of Google's ResNets: convolutions without bias, and norms that old files keep with four axes."""

import re

from vitkit.checkpoints.table import CONVOLUTION, Rule
from vitkit.checkpoints.tensors import Info, Tensors


def convolution(ours: str, theirs: str) -> Rule:
    """A standardised convolution; the stored kernel is raw."""
    return Rule(f"{ours}.weight", (f"{theirs}/kernel",), CONVOLUTION)


def norm(ours: str, theirs: str, leaves: tuple[str, str]) -> list[Rule]:
    """A GroupNorm, with its words for scale and shift."""
    return [
        Rule(f"{ours}.{leaf}", (f"{theirs}/{word}",)) for leaf, word in zip(("weight", "bias"), leaves, strict=True)
    ]


def squeezed(tensors: Tensors, pattern: str) -> Tensors:
    """Norms of the shape (1, 1, 1, c), as files of an older flax have, as the vectors they are."""
    old = {
        name
        for name, info in tensors.infos.items()
        if re.search(pattern, name) and len(info.shape) == 4 and info.shape[:3] == (1, 1, 1)
    }
    infos = {name: Info(info.shape[3:], info.dtype) if name in old else info for name, info in tensors.infos.items()}
    return Tensors(infos, lambda name: tensors.read(name).reshape(-1) if name in old else tensors.read(name))
