"""The ways to run a network, from the fastest to the exact one, and which of them a machine and a precision allow."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitkit.inference.engine.machine import Machine
from vitkit.models import Backbone

PRECISIONS = ("float32", "bfloat16", "float16", "int8", "float8")
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# The most that a path may differ from float32 (see `check.difference`) and still be used.
BOUNDS = {"float32": 1e-3, "bfloat16": 0.08, "float16": 0.02, "int8": 0.3, "float8": 0.3}
# Who has products of 8 bits.
EIGHT_BITS = {
    "int8": "a CPU with 8-bit products (AVX-512 VNNI)",
    "float8": "a GPU with 8-bit products (compute capability 8.9 or more)",
}
# Below this many parameters a network is mostly calls, and no arithmetic makes it faster.
SMALL = 1_000_000


@dataclass(frozen=True)
class Path:
    """One way: a `precision` of `PRECISIONS`, in a fused copy or step by step, compiled or not; and why this one."""

    precision: str
    fused: bool
    why: str
    compiled: bool = False

    @property
    def bound(self) -> float:
        """The most that it may differ from float32."""
        return BOUNDS[self.precision]

    @property
    def words(self) -> str:
        """One phrase for people."""
        if self.compiled:
            return f"{self.precision}, compiled"
        return f"{self.precision}{', weights packed and steps fused' if self.fused else ', step by step'}"


def paths(precision: str, machine: Machine, model: Backbone, *, merging: bool = False) -> list[Path]:
    """What to try, best first; ValueError for an unknown precision, and for 8 bits on a machine without them.

    `auto` ends with the exact path and so always finds one; a precision by name does not become another.
    """
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(f"unknown precision '{precision}'; there is auto, {', '.join(PRECISIONS)}")
    for name, circuits in EIGHT_BITS.items():
        if precision == name and not getattr(machine, name):
            raise ValueError(f"{name} needs {circuits}, here is a {machine.words}")
    if precision == "auto":
        return _automatic(machine, model, merging)
    asked = f"{precision} was asked for"
    if precision in ("bfloat16", "float16") and not getattr(machine, precision):
        asked += f", which is no faster than float32 on this {machine.words}"
    if precision == "float32":
        # Exact means torch's own operations in their own order; merging changes the network, and needs the copy.
        return [Path("float32", merging, asked)]
    if precision in EIGHT_BITS:
        return [Path(precision, True, asked)]
    return [Path(precision, True, asked), *([] if merging else [Path(precision, False, asked)])]


def compiled(ways: Iterable[Path], machine: Machine) -> list[Path]:
    """The same ways for torch's compiler; ValueError for int8, whose layers it cannot see into.

    Nor into packed weights: where there are such it fuses the steps by itself.
    """
    ways = list(ways)
    if any(path.precision == "int8" for path in ways):
        raise ValueError("8-bit layers are not for torch's compiler: choose int8 or compile")
    found = (replace(path, fused=path.fused and not machine.packs, compiled=True) for path in ways)
    return list(dict.fromkeys(found))


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


def probe(model: Backbone, count: int = 1) -> Float[Tensor, "b c rows columns"]:
    """Pictures that no photo is needed for: large soft shapes and some noise, the same ones every time."""
    config = model.config
    generator = torch.Generator().manual_seed(20)
    shapes = torch.randn(count, config.channels, 8, 8, generator=generator)
    shapes = F.interpolate(shapes, size=config.image_size, mode="bicubic", align_corners=False)
    noise = torch.randn(count, config.channels, *config.image_size, generator=generator)
    return (shapes + 0.2 * noise).to(next(model.parameters()).device)


def answers(model: Backbone, images: Tensor) -> list[Float[Tensor, "b n"]]:
    """What a model says of pictures and what its head read, float32."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            features = model.features(images)
            said = model.logits(features), model.represent(features)
            return [answer.float().flatten(1) for answer in said]
    finally:
        model.train(training)


def difference(exact: list[Tensor], fast: list[Tensor]) -> float:
    """The larger of the two root mean square differences, of logits and of representations, each as a share of the
    exact ones' own spread; infinite where the fast one is no number or of another shape.

    Logits without any spread (a new head is zero) are compared as they are.
    """
    found = 0.0
    for true, other in zip(exact, fast, strict=True):
        if true.shape != other.shape or not bool(other.isfinite().all()):
            return float("inf")
        spread = float((true - true.mean()).square().mean().sqrt())
        off = float((true - other).square().mean().sqrt())
        found = max(found, off / spread if spread > 1e-6 else off)
    return found
