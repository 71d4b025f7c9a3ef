"""The ways to run a network, from the fastest to the exact one, and which of them a machine and a precision allow."""

from dataclasses import dataclass

import torch

from vitkit.engine.machine import Machine
from vitkit.models import Backbone

PRECISIONS = ("float32", "bfloat16", "float16", "int8")
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# The most that a path may differ from float32 (see `check.difference`) and still be used.
BOUNDS = {"float32": 1e-3, "bfloat16": 0.08, "float16": 0.02, "int8": 0.3}
# Below this many parameters a network is mostly calls, and no arithmetic makes it faster.
SMALL = 1_000_000


@dataclass(frozen=True)
class Path:
    """One way: a `precision` of `PRECISIONS`, in a fused copy or step by step; and why this one."""

    precision: str
    fused: bool
    why: str

    @property
    def bound(self) -> float:
        """The most that it may differ from float32."""
        return BOUNDS[self.precision]

    @property
    def words(self) -> str:
        """One phrase for people."""
        return f"{self.precision}{', weights packed and steps fused' if self.fused else ', step by step'}"


def paths(precision: str, machine: Machine, model: Backbone, *, merging: bool = False) -> list[Path]:
    """What to try, best first; ValueError for an unknown precision, and for int8 on a machine without it.

    `auto` ends with the exact path and so always finds one; a precision by name does not become another.
    """
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(f"unknown precision '{precision}'; there is auto, {', '.join(PRECISIONS)}")
    if precision == "int8" and not machine.int8:
        raise ValueError(f"int8 needs a CPU with 8-bit products (AVX-512 VNNI), here is a {machine.words}")
    if precision == "auto":
        return _automatic(machine, model, merging)
    asked = f"{precision} was asked for"
    if precision == "float32":
        # Exact means torch's own operations in their own order; merging changes the network, and needs the copy.
        return [Path("float32", merging, asked)]
    if precision == "int8":
        return [Path("int8", True, asked)]
    return [Path(precision, True, asked), *([] if merging else [Path(precision, False, asked)])]


def _automatic(machine: Machine, model: Backbone, merging: bool) -> list[Path]:
    exact = [Path("float32", merging, "every other path was refused")]
    if sum(parameter.numel() for parameter in model.parameters()) < SMALL:
        return [Path("float32", merging, "a network this small is no faster otherwise")]
    if machine.bfloat16:
        exact.insert(0, Path("bfloat16", True, f"the fastest on this {machine.words}"))
    elif machine.float16:
        exact.insert(0, Path("float16", True, f"the fastest on this {machine.words}"))
    if machine.packs:
        exact.insert(-1, Path("float32", True, f"the fastest exact arithmetic on this {machine.words}"))
    return exact
