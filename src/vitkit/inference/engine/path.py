"""Chooses the execution paths to try for a device and precision, and compares the outputs of models."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitkit.inference.engine.capabilities import Capabilities
from vitkit.layers import eval_mode
from vitkit.models import Backbone

PRECISIONS = ("float32", "bfloat16", "float16", "int8", "float8")
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# The largest difference from float32 (see `difference`) with which a path is used.
BOUNDS = {"float32": 1e-3, "bfloat16": 0.08, "float16": 0.02, "int8": 0.3, "float8": 0.3}
# Hardware requirements of the 8-bit precisions.
EIGHT_BITS = {
    "int8": "a CPU with 8-bit matrix products (AVX-512 VNNI)",
    "float8": "a GPU with 8-bit matrix products (compute capability 8.9 or more)",
}
# Models with fewer parameters spend most of their time in function calls: no dtype makes them faster.
SMALL = 1_000_000


@dataclass(frozen=True)
class ExecutionPath:
    """How to run a model: the precision, whether to use fused layers and torch.compile, and the reason."""

    precision: str
    fused: bool
    reason: str
    compiled: bool = False

    @property
    def bound(self) -> float:
        """The largest accepted difference from the float32 outputs (see `difference`)."""
        return BOUNDS[self.precision]

    @property
    def description(self) -> str:
        """A short description, such as "bfloat16, compiled"."""
        if self.compiled:
            return f"{self.precision}, compiled"
        return f"{self.precision}{', weights packed and steps fused' if self.fused else ', eager'}"


def paths(precision: str, capabilities: Capabilities, model: Backbone, *, merging: bool = False) -> list[ExecutionPath]:
    """Returns the execution paths to try, fastest first.

    `auto` ends with eager float32, so one of its paths always works. A named precision is never replaced by another.
    Raises ValueError for an unknown precision and for an 8-bit precision that the device does not support.
    """
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(f"unknown precision '{precision}'; choose one of auto, {', '.join(PRECISIONS)}")
    for name, hardware in EIGHT_BITS.items():
        if precision == name and not getattr(capabilities, name):
            raise ValueError(f"{name} needs {hardware}; this device is {capabilities.description}")
    if precision == "auto":
        return _automatic(capabilities, model, merging)
    reason = f"{precision} was requested"
    if precision in ("bfloat16", "float16") and not getattr(capabilities, precision):
        reason += f", which is no faster than float32 on this {capabilities.description}"
    if precision == "float32":
        # Exact: the model's own operations. Token merging changes the model and needs the fused copy.
        return [ExecutionPath("float32", merging, reason)]
    if precision in EIGHT_BITS:
        return [ExecutionPath(precision, True, reason)]
    return [ExecutionPath(precision, True, reason), *([] if merging else [ExecutionPath(precision, False, reason)])]


def compiled_paths(candidates: Iterable[ExecutionPath], capabilities: Capabilities) -> list[ExecutionPath]:
    """Returns the execution paths for torch.compile, without packed weights, because these cannot be compiled.

    Raises ValueError for int8, whose layers it cannot compile either.
    """
    candidates = list(candidates)
    if any(path.precision == "int8" for path in candidates):
        raise ValueError("torch.compile does not support int8 layers; use int8 or torch.compile, not both")
    found = (replace(path, fused=path.fused and not capabilities.packs, compiled=True) for path in candidates)
    return list(dict.fromkeys(found))


def _automatic(capabilities: Capabilities, model: Backbone, merging: bool) -> list[ExecutionPath]:
    found = [ExecutionPath("float32", merging, "every other path was rejected")]
    if sum(parameter.numel() for parameter in model.parameters()) < SMALL:
        return [ExecutionPath("float32", merging, "a model this small is not faster in another precision")]
    if capabilities.bfloat16:
        found.insert(0, ExecutionPath("bfloat16", True, f"the fastest on this {capabilities.description}"))
    elif capabilities.float16:
        found.insert(0, ExecutionPath("float16", True, f"the fastest on this {capabilities.description}"))
    if capabilities.packs:
        found.insert(
            -1, ExecutionPath("float32", True, f"the fastest path in float32 on this {capabilities.description}")
        )
    return found


def probe(model: Backbone, count: int = 1) -> Float[Tensor, "b c rows columns"]:
    """Returns normalized synthetic images (smooth shapes with noise), generated with a fixed seed."""
    config = model.config
    generator = torch.Generator().manual_seed(20)
    shapes = torch.randn(count, config.channels, 8, 8, generator=generator)
    shapes = F.interpolate(shapes, size=config.image_size, mode="bicubic", align_corners=False)
    noise = torch.randn(count, config.channels, *config.image_size, generator=generator)
    return (shapes + 0.2 * noise).to(next(model.parameters()).device)


def outputs(model: Backbone, images: Tensor) -> list[Float[Tensor, "b n"]]:
    """Returns the logits and the representations of normalized images in float32."""
    with eval_mode(model), torch.inference_mode():
        features = model.features(images)
        return [output.float().flatten(1) for output in (model.logits(features), model.represent(features))]


def difference(exact: list[Tensor], fast: list[Tensor]) -> float:
    """Returns the largest relative difference between exact and fast outputs (logits and representations).

    It is the root mean square difference divided by the standard deviation of the exact output, which is not divided if
    it is constant (a new head is zero). Outputs that are not finite or of another shape give infinity.
    """
    largest = 0.0
    for true, other in zip(exact, fast, strict=True):
        if true.shape != other.shape or not bool(other.isfinite().all()):
            return float("inf")
        spread = float((true - true.mean()).square().mean().sqrt())
        error = float((true - other).square().mean().sqrt())
        largest = max(largest, error / spread if spread > 1e-6 else error)
    return largest
