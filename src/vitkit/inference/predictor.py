"""`Predictor`: a network over a stream of images of any kind, whose unreadable ones stop nothing."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vitkit.data.processor import Processor, draft
from vitkit.data.processor import resampling as by_torch
from vitkit.images import ImageError, Limits
from vitkit.inference import engine, stream
from vitkit.inference.engine.merging import Reduction
from vitkit.inference.engine.path import TYPES, probe
from vitkit.inference.runtimes._exported import Exported
from vitkit.models import Backbone

Network = Callable[[Backbone, Tensor], Tensor]
# What `precision` can be beside auto.
PRECISIONS = engine.PRECISIONS
Resampling = Literal["pillow", "torch", "draft"]
# How pictures are read, by the name of it.
READERS: dict[str, Callable[..., np.ndarray]] = {
    "pillow": lambda processor, image, **reading: processor.array(image, **reading),
    "torch": by_torch.array,
    "draft": draft.array,
}
# How many pictures 8-bit layers are calibrated on, at most.
CALIBRATION = 32


@dataclass(frozen=True)
class Prediction:
    """One class and the share of certainty (softmax) that the model gives it, in 0..1."""

    label: str
    index: int
    score: float


@dataclass(frozen=True)
class Outcome:
    """What became of one image: a float32 row of the network's output, or why there is none."""

    source: Any
    output: np.ndarray | None = None
    error: ImageError | None = None


class Predictor:
    """Runs a model over any number of images: in order, one outcome for each, an unreadable one never stops the others.

    `precision` is float32 (exact: the model's own operations), bfloat16, float16, int8, or auto: the fastest that the
    machine has circuits for and that is near float32 on this model, float32 where there is none. `statement` says which
    it is, why, and how far off. A model in another precision is a copy of the weights as they are at the first picture.
    8-bit layers are calibrated on `calibration`, images of any kind, or on the first ones that come. `merge_tokens` is
    how many tokens every block merges away (ToMe): faster, and another answer; evaluate it.
    `device` is a torch device or auto (a GPU if there is one). Threads decode and preprocess; `limits` bound what they
    read, `allow_truncated` accepts images cut short; `resampling` is pillow (its pixels), torch (those of transformers'
    default backend) or draft (large JPEG files are decoded small: several times faster, other pixels). `progress` draws
    a bar on standard error. `compile` has torch's compiler make the network for full batches (on a GPU with CUDA
    graphs): for very many images, as it takes up to minutes before the first.
    """

    def __init__(
        self,
        model: Backbone,
        processor: Processor,
        *,
        precision: str = "auto",
        device: str = "auto",
        batch_size: int | None = None,
        calibration: Iterable[Any] = (),
        merge_tokens: Reduction = 0,
        limits: Limits | None = None,
        allow_truncated: bool = False,
        resampling: Resampling = "pillow",
        progress: bool = False,
        compile: bool = False,  # noqa: A002 - the field's word
    ):
        if precision not in ("auto", *PRECISIONS):
            raise ValueError(f"unknown precision '{precision}'; there is auto, {', '.join(PRECISIONS)}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"the batch size is {batch_size}; it must be at least 1")
        self.processor = processor
        self.device = device_of("cpu" if device == "auto" and isinstance(model, Exported) else device)
        self.batch_size = batch_size or (8 if self.device.type == "cpu" else 64)
        self.limits = limits or Limits()
        self.allow_truncated = allow_truncated
        if resampling not in READERS:
            raise ValueError(f"resampling is {', '.join(READERS)}, not '{resampling}'")
        self.resampling = resampling
        self.progress = progress
        # A GPU is handed bytes and normalises them itself.
        self._bytes = self.device.type == "cuda" and resampling == "pillow" and isinstance(processor, Processor)
        self._given = model
        self._precision = precision
        self._merge = merge_tokens
        self._compiled = self.batch_size if compile else 0
        self._calibration = calibration
        self._ready: engine.Engine | None = None

    @property
    def model(self) -> Backbone:
        """The network that runs; it takes pictures of type `dtype` on `device`.

        It is made when it is first asked for. Raises ValueError where the precision cannot be used with this model.
        """
        return self._engine().model

    @property
    def dtype(self) -> torch.dtype:
        """The type of the pictures that `model` takes."""
        network = self._engine().model
        return torch.float32 if isinstance(network, engine.Fast) else next(network.parameters()).dtype

    @property
    def precision(self) -> str:
        """The one of `PRECISIONS` that runs."""
        return self._engine().precision

    @property
    def statement(self) -> str:
        """One line for people: which path runs, why, and how far it is from float32."""
        return self._engine().statement

    def _engine(self, first: Tensor | None = None) -> engine.Engine:
        """What runs; 8-bit layers are calibrated on `first` where nothing else was given."""
        if self._ready is None:
            network = placed(self._given, self.device)
            dtype = next(network.parameters()).dtype
            if not isinstance(network, Backbone) or isinstance(network, Exported) or dtype != torch.float32:
                self._ready = as_it_is(network, self._precision)
            else:
                self._ready = engine.accelerate(
                    network,
                    precision=self._precision,
                    merge=self._merge,
                    pictures=lambda: self._pictures(first),
                    compiled=self._compiled,
                )
        return self._ready

    def _pictures(self, first: Tensor | None) -> Tensor:
        """The pictures to calibrate on, normalised: those given, else the first of the stream, else soft noise."""
        images = [self._read(image) for image in islice(self._calibration, CALIBRATION)]
        if images:
            return self._normalised(images).to(self.device)
        return probe(self._given, count=8).to(self.device) if first is None else first.to(self.device)

    def logits(self, images: Iterable[Any]) -> Iterator[Outcome]:
        """The logits of each image, (classes,)."""
        return self._watched(images, lambda model, batch: model(batch))

    def embeddings(self, images: Iterable[Any]) -> Iterator[Outcome]:
        """What the head reads of each image: the pooled representation, (d,)."""
        return self._watched(images, lambda model, batch: model.represent(model.features(batch)))

    def _watched(self, images: Iterable[Any], network: Network) -> Iterator[Outcome]:
        outcomes = self._stream(images, network)
        if not self.progress:
            return outcomes
        from rich.console import Console
        from rich.progress import track

        total = len(images) if isinstance(images, Sized) else None
        return iter(track(outcomes, "images", total=total, console=Console(stderr=True), transient=True))

    def _stream(self, images: Iterable[Any], network: Network) -> Iterator[Outcome]:
        source, size = iter(images), self.batch_size

        def run(batch: Sequence[stream.Pair]) -> Sequence[Outcome]:
            return self._run(batch, network)

        # The first pictures that can be read make the network.
        while self._ready is None:
            first = list(islice(source, size))
            if not first:
                return
            yield from stream.ahead(first, self._read, run, size)
        lanes = 1
        if self.device.type == "cpu" and isinstance(self.model, engine.Fast) and not self.model.compiled:
            lanes = stream.lanes()
        window = list(islice(source, 2 * lanes))
        rest = chain(window, source)
        if lanes > 1 and len(window) == 2 * lanes:
            yield from stream.in_lanes(rest, self._read, run, size, lanes)
        else:
            yield from stream.ahead(rest, self._read, run, size)

    def _read(self, image: Any) -> np.ndarray:
        read = Processor.pixels if self._bytes else READERS[self.resampling]
        return read(self.processor, image, limits=self.limits, allow_truncated=self.allow_truncated)

    def _run(self, batch: Sequence[stream.Pair], network: Network) -> Sequence[Outcome]:
        outcomes: list[Outcome | None] = [None] * len(batch)
        shapes: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
        for position, (image, pixels) in enumerate(batch):
            if isinstance(pixels, ImageError):
                outcomes[position] = Outcome(source=image, error=pixels)
            else:
                shapes.setdefault(pixels.shape, []).append((position, pixels))
        # A processor that keeps sizes gives several shapes: each is a batch of its own.
        for group in shapes.values():
            rows = self._forward(self._normalised([pixels for _, pixels in group]), network)
            for (position, _), row in zip(group, rows, strict=True):
                outcomes[position] = _outcome(batch[position][0], row)
        return [outcome for outcome in outcomes if outcome is not None]

    def _normalised(self, pictures: Sequence[np.ndarray]) -> Tensor:
        stacked = torch.from_numpy(np.stack(pictures))
        if not self._bytes:
            return stacked
        levels = stacked if stacked.ndim == 4 else stacked[..., None]
        return by_torch.normalize_on_device(self.processor, by_torch.to_device(levels, self.device))

    def _forward(self, pixels: Tensor, network: Network) -> np.ndarray:
        model = self._engine(pixels).model
        training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                return network(model, pixels.to(self.device, self.dtype)).float().cpu().numpy()
        finally:
            model.train(training)


def _outcome(source: Any, row: np.ndarray) -> Outcome:
    if np.isfinite(row).all():
        return Outcome(source=source, output=row)
    return Outcome(source=source, error=ImageError("not_finite", "the network gave no numbers for it: try float32"))


def top_predictions(logits: np.ndarray, labels: Sequence[str], top: int) -> list[Prediction]:
    """The `top` classes by softmax score, best first; fewer where there are fewer classes."""
    if logits.ndim != 1:
        raise ValueError(
            f"this model gives logits of shape {logits.shape} for an image, not one row: it does not classify"
        )
    shifted = np.exp((logits - logits.max()).astype(np.float64))
    scores = shifted / shifted.sum()
    best = np.argsort(-scores, kind="stable")[:top]
    return [Prediction(label=labels[int(index)], index=int(index), score=float(scores[index])) for index in best]


def device_of(name: str) -> torch.device:
    """The torch device that a word means, auto a GPU if there is one; ValueError that lists those that are here."""
    here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    here += ["mps"] if torch.backends.mps.is_available() else []
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and torch.cuda.is_available():
        return torch.device("cuda")
    if name not in here:
        raise ValueError(f"there is no device '{name}' here; there is auto, {', '.join(here)}")
    return torch.device(name)


def placed(model: Backbone, device: torch.device) -> Backbone:
    """The model on that device; a copy where the caller's own would move."""
    return model if next(model.parameters()).device == device else copy.deepcopy(model).to(device)


def as_it_is(model: Backbone, precision: str) -> engine.Engine:
    """A model that is in another type than float32 already, or that is none of ours, in the precision it is asked for.

    ValueError for one that only the engine can give.
    """
    own = next(model.parameters()).dtype
    wanted = TYPES.get(precision, own) if precision != "auto" else own
    if precision == "int8":
        raise ValueError(f"int8 is made of a model in float32; this one is in {str(own).removeprefix('torch.')}")
    name = str(wanted).removeprefix("torch.")
    if wanted != own:
        model = copy.deepcopy(model).to(wanted)
    return engine.Engine(
        model, name, False, 0.0, f"{name}, step by step: the model came in {str(own).removeprefix('torch.')}"
    )
