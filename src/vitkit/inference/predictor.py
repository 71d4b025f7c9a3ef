"""`Predictor`: runs a model on a stream of images and yields one outcome per image."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal, TypedDict

import numpy as np
import torch
from torch import Tensor

from vitkit.data.processor import ImageInput, Processor, draft, named
from vitkit.data.processor import resampling as torch_resampling
from vitkit.images import ImageError, Limits
from vitkit.inference import engine, stream
from vitkit.inference.engine.merging import Reduction
from vitkit.inference.engine.path import TYPES, probe
from vitkit.inference.placement import find_device, keep_operations, to_device
from vitkit.inference.runtimes import ExportedModel
from vitkit.layers import Blocks, Features, block_indices, eval_mode
from vitkit.logs import LOGGER
from vitkit.models import Backbone

#: Maps a model and normalized images to outputs with one row per image: the output, then those of chosen blocks.
Network = Callable[[Backbone, Tensor], tuple[Tensor, ...]]
# Values of `precision` other than auto.
PRECISIONS = engine.PRECISIONS
Resampling = Literal["pillow", "torch", "draft"]
# Functions that read an image, by the value of `resampling`.
READERS: dict[str, Callable[..., np.ndarray]] = {
    "pillow": lambda processor, image, **reading: processor.array(image, **reading),
    "torch": torch_resampling.array,
    "draft": draft.array,
}
# Largest number of images for the calibration of int8 layers.
CALIBRATION = 32


class Options(TypedDict, total=False):
    """Inference options of `Predictor`, such as precision, batch size and device."""

    precision: str
    device: str
    batch_size: int | None
    calibration: Iterable[ImageInput]
    merge_tokens: Reduction
    limits: Limits | None
    allow_truncated: bool
    resampling: Resampling
    progress: bool
    compile: bool


@dataclass(frozen=True)
class Outcome:
    """The result for one image: a row of the model's output in float32, or an error.

    `taps` are the outputs of the blocks that `Predictor.embeddings` was asked for.
    """

    source: ImageInput
    output: np.ndarray | None = None
    error: ImageError | None = None
    taps: tuple[np.ndarray, ...] = ()


class Predictor:
    """Runs a model on any number of images and yields one `Outcome` per image, in order.

    The outcome of an unreadable image contains the error, and the other images are still processed. Models run in
    evaluation mode. For speed, a copy of the model is made with fused layers and possibly another precision. If
    weights, buffers, modules, attributes or hooks of the model change, the copy is not used any more, and the next call
    of `logits` or `embeddings` makes another copy. A model with hooks, parametrizations or replaced methods is never
    copied (`engine.irregularity`).

    Args:
        model: The model.
        processor: Its preprocessing.
        precision: float32 (exact), bfloat16, float16, int8, float8, or auto: the fastest precision that the device
            supports and whose outputs are close to float32 for this model. `summary` describes which precision was
            chosen and why.
        device: A torch device, or auto (a GPU if available).
        batch_size: Images per batch (default: 8 on a CPU, else 64).
        calibration: Images for the calibration of int8 layers (default: the first batch).
        merge_tokens: Number of tokens that each block merges (ToMe). This is faster but changes the outputs, so
            evaluate the accuracy.
        limits: Limits for untrusted images.
        allow_truncated: Accept truncated images.
        resampling: pillow (exact), torch (as the default backend of transformers) or draft (large JPEG files are
            decoded at a lower resolution: several times faster, slightly different pixels).
        progress: Show a progress bar on standard error.
        compile: Compile the model for full batches with torch.compile, with CUDA graphs on a GPU. Compilation can take
            minutes before the first output.
    """

    def __init__(
        self,
        model: Backbone,
        processor: Processor,
        *,
        precision: str = "auto",
        device: str = "auto",
        batch_size: int | None = None,
        calibration: Iterable[ImageInput] = (),
        merge_tokens: Reduction = 0,
        limits: Limits | None = None,
        allow_truncated: bool = False,
        resampling: Resampling = "pillow",
        progress: bool = False,
        compile: bool = False,  # noqa: A002 - the name that torch uses
    ):
        if precision not in ("auto", *PRECISIONS):
            raise ValueError(f"unknown precision '{precision}'; choose one of auto, {', '.join(PRECISIONS)}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        if isinstance(model, ExportedModel):
            _check_export(precision, merge_tokens, compile)
        self.processor = processor
        self.device = find_device("cpu" if device == "auto" and isinstance(model, ExportedModel) else device)
        self.batch_size = batch_size or (8 if self.device.type == "cpu" else 64)
        self.limits = limits or Limits()
        self.allow_truncated = allow_truncated
        if resampling not in READERS:
            raise ValueError(f"unknown resampling '{resampling}'; choose one of {', '.join(READERS)}")
        self.resampling = resampling
        self.progress = progress
        # On a GPU, pixels are transferred as bytes and normalized there.
        self._normalize_on_device = (
            self.device.type == "cuda" and resampling == "pillow" and isinstance(processor, Processor)
        )
        self._model = model
        self._precision = precision
        self._merge = merge_tokens
        self._compiled = self.batch_size if compile else 0
        self._calibration = calibration
        self._calibrated: list[np.ndarray] = []
        self._fused = True
        self._dtype: torch.dtype | None = None
        self._accelerated: engine.Accelerated | None = None

    @property
    def model(self) -> Backbone:
        """The model in use. It takes normalized images of the dtype `dtype` on `device`.

        It is prepared on first use, and again after the original model has changed. Raises ValueError if the model
        cannot run in the chosen precision.
        """
        self._discard_stale()
        return self._accelerate().model

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the images that `model` takes."""
        network = self._accelerate().model
        own = isinstance(network, engine.FastModel | engine.AutocastModel)
        return torch.float32 if own else next(network.parameters()).dtype

    @property
    def precision(self) -> str:
        """The precision in use, one of `PRECISIONS`."""
        return self._accelerate().precision

    @property
    def summary(self) -> str:
        """One line with the precision in use, why it was chosen, and the difference from the float32 outputs."""
        return self._accelerate().summary

    def _accelerate(self, first: Tensor | None = None) -> engine.Accelerated:
        """Returns the accelerated model, created on the first call. For `first`, see `_calibration_images`."""
        if self._accelerated is None:
            self._dtype = next(self._model.parameters()).dtype
            network = to_device(self._model, self.device)
            supported = isinstance(network, Backbone) and not isinstance(network, ExportedModel)
            if not self._fused or not supported or self._dtype != torch.float32:
                self._accelerated = keep_operations(network, self._precision)
            else:
                self._accelerated = engine.accelerate(
                    network,
                    precision=self._precision,
                    merge=self._merge,
                    calibration=lambda: self._calibration_images(first),
                    compiled=self._compiled,
                    source=self._model,
                )
        return self._accelerated

    def _discard_stale(self) -> None:
        """Discards the copy of the model if the model has changed. The next call then makes another copy.

        If changes of the model cannot be detected, the copy is used for one call only.
        """
        current = self._accelerated
        if current is None:
            return
        copied = current.model is not self._model
        unwatched = current.watch is None and (copied or current.irregular)
        dtype = next(self._model.parameters()).dtype
        if unwatched or dtype != self._dtype or (current.watch is not None and current.watch.changed()):
            self._accelerated = None

    def _calibration_images(self, first: Tensor | None) -> Tensor:
        """Returns normalized images for calibration: from `calibration`, else `first`, else synthetic images."""
        images = self._calibrated
        if not images:
            for index, image in enumerate(self._calibration):
                found = stream.attempt(self._read, image)
                if isinstance(found, ImageError):
                    LOGGER.warning("skipped a calibration image: %s", named(found, image, index))
                    continue
                images.append(found)
                if len(images) == CALIBRATION:
                    break
        if images:
            return self._stack(images).to(self.device)
        return probe(self._model, count=8).to(self.device) if first is None else first.to(self.device)

    def logits(self, images: Iterable[ImageInput]) -> Iterator[Outcome]:
        """Yields one outcome per image. `Outcome.output` is the vector of logits, of shape (classes,)."""
        return self._with_progress(images, lambda model, batch: (model(batch),))

    def embeddings(
        self, images: Iterable[ImageInput], *, blocks: Blocks | None = None, as_maps: bool = False
    ) -> Iterator[Outcome]:
        """Yields one outcome per image. `Outcome.output` is the input of the head, a vector of shape (d,).

        With `blocks` (see `Backbone.features`), `Outcome.taps` has one output per block from the same pass: its class
        token if the head reads the class token, else the mean of its patches, of shape (d,); or with `as_maps` the map
        of its patches, of shape (d, rows, columns). They have no final norm. The model then runs without the engine.
        Raises ValueError for blocks that do not exist, and for precisions that need the engine.
        """
        if blocks is None:
            return self._with_progress(images, lambda model, batch: (model.represent(model.features(batch)),))
        if self._merge not in (0, []) or self._compiled or self._precision not in ("auto", *TYPES):
            raise ValueError(
                "block outputs are not available with token merging, torch.compile, int8 or float8; "
                f"disable these options and choose one of the precisions auto, {', '.join(TYPES)}"
            )
        indices = block_indices(blocks, self._model.num_taps)
        plain = copy.copy(self)
        plain._fused, plain._accelerated = False, None

        def run(model: Backbone, batch: Tensor) -> tuple[Tensor, ...]:
            features = model.features(batch, indices, as_maps=as_maps)
            taps = features.taps if as_maps else [_pooled(model, features, tap) for tap in features.taps]
            return (model.represent(features), *taps)

        return plain._with_progress(images, run)

    def _with_progress(self, images: Iterable[ImageInput], network: Network) -> Iterator[Outcome]:
        outcomes = self._stream(images, network)
        if not self.progress:
            return outcomes
        from rich.console import Console
        from rich.progress import track

        total = len(images) if isinstance(images, Sized) else None
        return iter(track(outcomes, "images", total=total, console=Console(stderr=True), transient=True))

    def _stream(self, images: Iterable[ImageInput], network: Network) -> Iterator[Outcome]:
        source, size = (stream.fetch(image, self.limits) for image in images), self.batch_size
        self._discard_stale()

        def run(batch: Sequence[stream.Pair]) -> Sequence[Outcome]:
            return self._run(batch, network)

        # The model is prepared (and calibrated) with the first images that can be read.
        while self._accelerated is None:
            first = list(islice(source, size))
            if not first:
                return
            yield from stream.read_ahead(first, self._read, run, size)
        workers = 1
        model = self._accelerate().model
        if self.device.type == "cpu" and isinstance(model, engine.FastModel) and not model.compiled:
            workers = stream.num_workers()
        window = list(islice(source, 2 * workers))
        rest = chain(window, source)
        if workers > 1 and len(window) == 2 * workers:
            yield from stream.run_in_workers(rest, self._read, run, size, workers)
        else:
            yield from stream.read_ahead(rest, self._read, run, size)

    def _read(self, image: ImageInput) -> np.ndarray:
        read = Processor.pixels if self._normalize_on_device else READERS[self.resampling]
        return read(self.processor, image, limits=self.limits, allow_truncated=self.allow_truncated)

    def _run(self, batch: Sequence[stream.Pair], network: Network) -> Sequence[Outcome]:
        outcomes: list[Outcome | None] = [None] * len(batch)
        shapes: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
        for position, (image, pixels) in enumerate(batch):
            if isinstance(pixels, ImageError):
                outcomes[position] = Outcome(source=image, error=pixels)
            else:
                shapes.setdefault(pixels.shape, []).append((position, pixels))
        # A processor that does not resize gives several shapes: one batch per shape.
        for group in shapes.values():
            try:
                rows = self._forward(self._stack([pixels for _, pixels in group]), network)
            except ValueError as error:
                if getattr(self.processor, "resize", "") != "none":
                    raise
                # The model rejects the size of these images. The other images are still processed.
                for position, _ in group:
                    refused = ImageError("unsupported_format", str(error))
                    outcomes[position] = Outcome(source=batch[position][0], error=refused)
                continue
            for (position, _), row in zip(group, rows, strict=True):
                outcomes[position] = _outcome(batch[position][0], *row)
        return [outcome for outcome in outcomes if outcome is not None]

    def _stack(self, images: Sequence[np.ndarray]) -> Tensor:
        stacked = torch.from_numpy(np.stack(images))
        if not self._normalize_on_device:
            return stacked
        levels = stacked if stacked.ndim == 4 else stacked[..., None]
        return torch_resampling.normalize_on_device(self.processor, torch_resampling.to_device(levels, self.device))

    def _forward(self, pixels: Tensor, network: Network) -> list[tuple[np.ndarray, ...]]:
        model = self._accelerate(pixels).model
        with eval_mode(model), torch.inference_mode():
            outputs = network(model, pixels.to(self.device, self.dtype))
            return list(zip(*(output.float().cpu().numpy() for output in outputs), strict=True))


def _outcome(source: ImageInput, row: np.ndarray, *taps: np.ndarray) -> Outcome:
    if all(np.isfinite(each).all() for each in (row, *taps)):
        return Outcome(source=source, output=row, taps=taps)
    message = "the output of the model contains NaN or infinite values; try float32"
    return Outcome(source=source, error=ImageError("not_finite", message))


def _pooled(model: Backbone, features: Features, tokens: Tensor) -> Tensor:
    """Returns the class token of a block's output, or the mean patch token if the head reads no class token."""
    output = features.with_tokens(tokens)
    reads_token = output.num_special > 0 and getattr(model.config, "pool", "token") in ("token", "token+gap")
    return output.class_token if reads_token else output.patches.mean(dim=1)


def _check_export(precision: str, merge: Reduction, compiled: bool) -> None:
    """Raises ValueError if options are set that an exported model does not support."""
    given = {
        f"in {precision}": precision not in ("auto", "float32"),
        "with token merging": merge not in (0, []),
        "with torch.compile": compiled,
    }
    if wrong := [name for name, is_given in given.items() if is_given]:
        raise ValueError(
            f"an exported model runs only on the CPU in float32, not {' and not '.join(wrong)}; load the original "
            "checkpoint instead"
        )
