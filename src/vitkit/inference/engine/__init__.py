"""The inference engine. Makes a fast copy of a model and compares its outputs with those of the float32 model.

`accelerate` tries the execution paths (`path.paths`) that the device supports. For each it makes a copy of the model
with fused layers and packed weights (`fuse.fuse`) and compares the outputs on a probe image; a path that fails or
differs too much is skipped. The model itself is not changed. Unknown layers are copied as they are. A copy is used
until the model changes (`watch.Watch`). Models with hooks or other parts that a copy cannot reproduce are not copied
(`watch.irregularity`).
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from vitkit.inference.engine import quantization
from vitkit.inference.engine.autocast import AutocastModel
from vitkit.inference.engine.blocks import attention_backend, is_plain
from vitkit.inference.engine.capabilities import Capabilities, capabilities
from vitkit.inference.engine.dense import Float8Dense
from vitkit.inference.engine.fuse import Fusion, check_mergeable, fuse, special_tokens_read
from vitkit.inference.engine.merging import Merging, Reduction, schedule
from vitkit.inference.engine.path import (
    EIGHT_BITS,
    PRECISIONS,
    TYPES,
    ExecutionPath,
    compiled_paths,
    difference,
    outputs,
    paths,
    probe,
)
from vitkit.inference.engine.watch import Watch, irregularity, is_hooked
from vitkit.layers import Block, Blocks, Features, TapOptions, check_axes, check_floats, eval_mode
from vitkit.models import Backbone, TokenBackbone

__all__ = [
    "PRECISIONS",
    "Accelerated",
    "AutocastModel",
    "Capabilities",
    "ExecutionPath",
    "FastModel",
    "Watch",
    "accelerate",
    "capabilities",
    "irregularity",
    "is_hooked",
    "paths",
]

# Images per forward pass on a CPU: enough to fill the matrix products, few enough to stay in the cache.
CHUNK = 8
# Largest number of images on which a path is compared with float32.
NUM_COMPARED = 4


@dataclass(frozen=True)
class Accelerated:
    """A model that was prepared for inference, its precision, and a summary of why this precision was chosen.

    `watch` detects later changes of the original model, or is None if changes are not detected. `irregular` is the
    reason why the model was not copied, or "" if it was copied.
    """

    model: Backbone
    precision: str
    fused: bool
    difference: float
    summary: str
    watch: Watch | None = None
    irregular: str = ""


class FastModel(Backbone):
    """A fast copy of a model with the same interface. It accepts images of any floating-point dtype.

    Batches are split into chunks, so that outputs do not depend on the batch size. If the head uses only special
    tokens, the output of `features` has no patch tokens. `original` is the model that was copied. If `watch` detects
    that the original has changed, the original runs instead of the copy, in evaluation mode and in its own precision.
    """

    original: Backbone
    watch: Watch | None

    def __init__(
        self,
        network: Backbone,
        original: Backbone,
        path: ExecutionPath,
        *,
        dtype: torch.dtype,
        chunk: int | None,
    ):
        super().__init__()
        self.watch_original(original, None)
        self.precision = path.precision
        self.network = network
        self.config = network.config
        self.width = network.width
        self.dtype = dtype
        self.chunk = chunk
        self.compiled = path.compiled
        self._run = network.features
        if path.compiled:
            # On a GPU: CUDA graphs and autotuned matrix products.
            mode = "max-autotune" if next(original.parameters()).device.type == "cuda" else None
            self._run = torch.compile(network.features, dynamic=False, mode=mode)
        self.eval()

    @property
    def pool_width(self) -> int:
        """The width of the representation, which is the input of the head."""
        return self.network.pool_width

    def features(
        self, images: Float[Tensor, "b c height width"], blocks: Blocks | None = None, **options: Unpack[TapOptions]
    ) -> Features:
        """Returns the tokens of images. Raises ValueError if `blocks` is given (block outputs are not available)."""
        if blocks is not None:
            raise ValueError(
                "an accelerated model does not return the outputs of blocks; call its `original.features` instead"
            )
        check_axes(images)
        check_floats(images)
        if self.is_stale:
            return self._original_features(images)
        return self._fast_features(images)

    def forward(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b *n classes"]:
        """Returns the logits of images."""
        check_axes(images)
        check_floats(images)
        if self.is_stale:
            parameter = next(self.original.parameters())
            with eval_mode(self.original):
                return self.original(images.to(parameter.device, parameter.dtype))
        return self.network.logits(self._fast_features(images))

    def watch_original(self, original: Backbone, watch: Watch | None) -> None:
        """Sets the original model and the `Watch` that detects changes of it."""
        # Not registered as a submodule: `train`, `eval` and `to` do not change it.
        object.__setattr__(self, "original", original)
        self.watch = watch

    @property
    def is_stale(self) -> bool:
        """Whether the original model has changed since it was copied.

        The original then runs instead of the copy.
        """
        return self.watch is not None and self.watch.changed()

    def _original_features(self, images: Tensor) -> Features:
        parameter = next(self.original.parameters())
        with eval_mode(self.original):
            return self.original.features(images.to(parameter.device, parameter.dtype))

    def _fast_features(self, images: Tensor) -> Features:
        images = images.to(self.dtype)
        if not images.shape[0]:
            # Some kernels reject empty tensors: take no rows of the tokens of one image.
            return self._fast_features(images.new_zeros(1, *images.shape[1:])).each(lambda tensor: tensor[:0])
        if self.chunk is None or images.shape[0] <= self.chunk:
            return self._run_chunk(images)
        return Features.join([self._run_chunk(chunk) for chunk in images.split(self.chunk)])

    def _run_chunk(self, images: Tensor) -> Features:
        if not self.compiled or self.chunk is None:
            return self._run(images)
        # Compiled for one batch size and one kind of tensor: smaller batches are padded with zeros.
        count = images.shape[0]
        if count < self.chunk or images.is_inference() != torch.is_inference_mode_enabled():
            images = torch.cat([images, images.new_zeros(self.chunk - count, *images.shape[1:])])
        torch.compiler.cudagraph_mark_step_begin()
        features = self._run(images)
        # Copies: the next run of a CUDA graph overwrites the outputs.
        return features.each(lambda tensor: tensor[:count].clone())

    def represent(self, features: Features) -> Float[Tensor, "b *n d"]:
        """Returns the representation of each image, which is the input of the head."""
        if self.is_stale:
            with eval_mode(self.original):
                return self.original.represent(self._for_original(features))
        return self.network.represent(features)

    def logits(self, features: Features) -> Float[Tensor, "b *n classes"]:
        """Returns the logits for features."""
        if self.is_stale:
            with eval_mode(self.original):
                return self.original.logits(self._for_original(features))
        return self.network.logits(features)

    def _for_original(self, features: Features) -> Features:
        parameter = next(self.original.parameters())
        return features.each(lambda tensor: tensor.to(parameter.device, parameter.dtype))

    def init_weights(self) -> None:
        """Raises RuntimeError, because packed weights cannot be initialized."""
        raise RuntimeError(
            "the packed weights of an accelerated model cannot be initialized; initialize the original model"
        )


def accelerate(
    model: Backbone,
    *,
    precision: str = "auto",
    merge: Reduction = 0,
    proportional: bool = True,
    calibration: Callable[[], Float[Tensor, "b c rows columns"]] | None = None,
    compiled: int = 0,
    source: Backbone | None = None,
) -> Accelerated:
    """Returns the fastest copy of a model whose outputs are close to those of the model in float32.

    A model with an irregularity (see `watch.irregularity`) is not copied. The model itself is returned, and bfloat16
    and float16 use autocast.

    Args:
        model: A model in float32; it is not changed.
        precision: `auto` or one of `PRECISIONS`.
        merge: Number of tokens that each block merges (see `merging.schedule`).
        proportional: Weight the attention to merged tokens by their sizes.
        calibration: Function that returns normalized images for the calibration of 8-bit layers. It is called only if
            needed.
        compiled: Batch size for torch.compile, or 0 to not compile. Compilation can take minutes.
        source: The model to watch for changes, if `model` is a copy of `source` on another device.

    Raises ValueError if the precision is unknown, is not supported by the device or is too inaccurate for this model.
    Raises ValueError if the model or the options cannot be combined with `merge` or `compiled`.
    """
    supported = capabilities(next(model.parameters()).device)
    merging = merge not in (0, [])
    found = "its own forward method" if type(model).forward is not Backbone.forward else irregularity(model)
    if found is not None:
        return _uncopied(model, precision, found, copied=merging or bool(compiled))
    images, watch = probe(model), None
    rejected: list[str] = []
    for path in _candidates(model, precision, supported, merging=merging, compiled=bool(compiled)):
        copied = path.fused or path.precision != "float32" or bool(compiled) or source not in (None, model)
        watch = watch or (Watch(source or model) if copied else None)
        if not path.fused and path.precision == "float32" and not compiled:
            return Accelerated(model, "float32", False, 0.0, _summary(path, 0.0, rejected), watch)
        if path.precision == "int8" and calibration is not None:
            # Ranges calibrated on real images do not fit the noise of the probe.
            images = calibration()
        exact = outputs(model, images[:NUM_COMPARED])
        try:
            base, fusion = _fusion(model, path, supported, images)
            network = _network(model, base, fusion, path, compiled)
            off = difference(exact, outputs(network, images[:NUM_COMPARED]))
        except (RuntimeError, TypeError, AttributeError) as error:
            rejected.append(f"{path.description} failed ({' '.join(str(error).split())[:120]})")
            continue
        if off > path.bound:
            rejected.append(
                f"{path.description} differs from the original model by {off:.1%}, the limit is {path.bound:.1%}"
            )
            continue
        summary = _summary(path, off, rejected)
        if merging:
            network = _network(model, base, replace(fusion, merging=_merging(model, merge, proportional, images)), path)
            changed = difference(exact, outputs(network, images[:NUM_COMPARED]))
            summary += f"; token merging ({merge} per block) changes the outputs by about {changed:.1%}"
        network.watch_original(source or model, watch)
        return Accelerated(network, path.precision, path.fused, off, summary, watch)
    raise ValueError(f"this model cannot run in {precision} on this device: {'; '.join(rejected)}")


def _uncopied(model: Backbone, precision: str, found: str, *, copied: bool) -> Accelerated:
    """Returns the original model, with autocast if needed. Raises ValueError for options that need a copy."""
    supported = capabilities(next(model.parameters()).device)
    paths(precision, supported, model)  # raises ValueError for an unsupported precision
    if copied or precision in EIGHT_BITS:
        what = precision if precision in EIGHT_BITS else "token merging or torch.compile"
        raise ValueError(f"{what} needs a copy of the model, but the model has {found}; remove it, or use float32")
    if precision in ("auto", "float32"):
        return Accelerated(model, "float32", False, 0.0, f"float32, eager: the model has {found}; exact", None, found)
    summary = f"{precision}, autocast: the model has {found}"
    return Accelerated(AutocastModel(model, TYPES[precision]), precision, False, math.nan, summary, None, found)


def _candidates(
    model: Backbone, precision: str, supported: Capabilities, *, merging: bool, compiled: bool
) -> list[ExecutionPath]:
    """Returns the execution paths to try, fastest first. Raises ValueError for options that cannot be combined."""
    if merging:
        check_mergeable(model)
    if compiled and merging:
        raise ValueError("token merging does not support torch.compile; choose one of the two")
    candidates = paths(precision, supported, model, merging=merging)
    return compiled_paths(candidates, supported) if compiled else candidates


def _fusion(model: Backbone, path: ExecutionPath, supported: Capabilities, images: Tensor) -> tuple[Backbone, Fusion]:
    """Returns the model to copy and the fusion settings. For int8, the returned model is smoothed and calibrated."""
    on_cpu = images.device.type == "cpu"
    in_bfloat16 = path.precision == "float8" or (path.precision == "int8" and supported.bfloat16)
    inner = torch.bfloat16 if in_bfloat16 else TYPES.get(path.precision, torch.float32)
    fusion = Fusion(
        dtype=torch.float32 if path.precision == "int8" else inner,
        inner=inner,
        packed=supported.packs and on_cpu,
        attention=attention_backend(supported, inner),
        mixed=on_cpu,
        depth=len(model.blocks),
        keep=special_tokens_read(model, images),
        float8=path.precision == "float8",
    )
    if path.precision != "int8":
        return model, fusion
    observed = fuse(model, replace(fusion, dtype=inner))
    observers = quantization.observe(observed)
    if not observers:
        raise RuntimeError(
            "int8 and float8 need dense layers in encoder blocks, but the model has none; use float32 or bfloat16"
        )
    with torch.inference_mode():
        for part in images.split(CHUNK):
            observed(part)
    # Copied outside of inference mode: its tensors cannot be used for in-place changes of weights.
    observers = {name: observer.copy() for name, observer in observers.items()}
    base, divisors = copy.deepcopy(model).requires_grad_(False), {}
    for index, block in enumerate(base.blocks):
        if isinstance(block, Block) and is_plain(block):
            divisors |= quantization.smooth(block, f"blocks.{index}", observers)
    ranges = {name: observer.range(divisors.get(name)) for name, observer in observers.items()}
    return base, replace(fusion, ranges=ranges)


def _network(model: Backbone, base: Backbone, fusion: Fusion, path: ExecutionPath, compiled: int = 0) -> FastModel:
    if not path.fused:
        network = copy.deepcopy(base).eval().requires_grad_(False).to(fusion.dtype)
        return FastModel(network, model, path, dtype=fusion.dtype, chunk=compiled or None)
    chunk = compiled if compiled else CHUNK if next(base.parameters()).device.type == "cpu" else None
    network = fuse(base, fusion)
    if fusion.float8 and not any(isinstance(module, Float8Dense) for module in network.modules()):
        raise RuntimeError(
            "int8 and float8 need dense layers in encoder blocks, but the model has none; use float32 or bfloat16"
        )
    return FastModel(network, model, path, dtype=torch.float32, chunk=chunk)


def _merging(model: Backbone, merge: Reduction, proportional: bool, images: Tensor) -> Merging:
    if not isinstance(model, TokenBackbone):
        raise ValueError(
            "token merging needs encoder blocks over tokens, but this model has none; disable token merging"
        )
    with torch.inference_mode():
        num_special = model.embed(images[:1]).num_special
    return Merging(schedule(merge, len(model.blocks)), num_special, proportional=proportional)


def _summary(path: ExecutionPath, off: float, rejected: list[str]) -> str:
    exact = path.precision == "float32" and not (path.fused or path.compiled)
    accuracy = "exact" if exact else f"differs from float32 by {off:.2%} of the standard deviation"
    return "; ".join([f"{path.description}: {path.reason}", accuracy, *rejected])
