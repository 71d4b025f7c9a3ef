"""`Predictor`: a network over a stream of images, with decoding in threads beside it."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitkit.data.processor import Processor
from vitkit.images import ImageError, Limits
from vitkit.models import Backbone
from vitkit.predict.backends import Exported

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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

    `precision` is float32 (exact), bfloat16, float16 or auto (today float32); `device` a torch device or auto (a GPU if
    there is one). Threads decode and preprocess; `limits` bound what they read, `allow_truncated` accepts images cut
    short. `progress` draws a bar on standard error.
    """

    def __init__(
        self,
        model: Backbone,
        processor: Processor,
        *,
        precision: str = "auto",
        device: str = "auto",
        batch_size: int | None = None,
        limits: Limits | None = None,
        allow_truncated: bool = False,
        progress: bool = False,
    ):
        if precision not in ("auto", *PRECISIONS):
            raise ValueError(f"unknown precision '{precision}'; there is auto, {', '.join(PRECISIONS)}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"the batch size is {batch_size}; it must be at least 1")
        self.processor = processor
        self.device = _device("cpu" if device == "auto" and isinstance(model, Exported) else device)
        self.dtype = PRECISIONS["float32" if precision == "auto" else precision]
        self.batch_size = batch_size or (8 if self.device.type == "cpu" else 64)
        self.limits = limits or Limits()
        self.allow_truncated = allow_truncated
        self.progress = progress
        self.model = _placed(model, self.device, self.dtype)

    def logits(self, images: Iterable[Any]) -> Iterator[Outcome]:
        """The logits of each image, (classes,)."""
        return self._watched(images, self.model)

    def embeddings(self, images: Iterable[Any]) -> Iterator[Outcome]:
        """What the head reads of each image: the pooled representation, (d,)."""
        return self._watched(images, lambda batch: self.model.represent(self.model.features(batch)))

    def _watched(self, images: Iterable[Any], network: Callable[[Tensor], Tensor]) -> Iterator[Outcome]:
        outcomes = self._stream(images, network)
        if not self.progress:
            return outcomes
        from rich.console import Console
        from rich.progress import track

        total = len(images) if isinstance(images, Sized) else None
        return iter(track(outcomes, "images", total=total, console=Console(stderr=True), transient=True))

    def _stream(self, images: Iterable[Any], network: Callable[[Tensor], Tensor]) -> Iterator[Outcome]:
        threads = min(8, os.cpu_count() or 1)
        source = iter(images)
        with ThreadPoolExecutor(threads, thread_name_prefix="vitkit-decode") as pool:
            waiting: deque[tuple[Any, Future[np.ndarray]]] = deque()
            try:
                while True:
                    # The next batch decodes while this one is in the network.
                    for image in islice(source, 2 * self.batch_size - len(waiting)):
                        waiting.append((image, pool.submit(self._read, image)))
                    if not waiting:
                        return
                    batch = [waiting.popleft() for _ in range(min(self.batch_size, len(waiting)))]
                    yield from self._run(batch, network)
            finally:
                for _, future in waiting:
                    future.cancel()

    def _read(self, image: Any) -> np.ndarray:
        return self.processor.array(image, limits=self.limits, allow_truncated=self.allow_truncated)

    def _run(
        self, batch: Sequence[tuple[Any, "Future[np.ndarray]"]], network: Callable[[Tensor], Tensor]
    ) -> Iterator[Outcome]:
        outcomes: list[Outcome | None] = [None] * len(batch)
        shapes: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
        for position, (image, future) in enumerate(batch):
            try:
                pixels = future.result()
                shapes.setdefault(pixels.shape, []).append((position, pixels))
            except ImageError as error:
                outcomes[position] = Outcome(source=image, error=error)
        # A processor that keeps sizes gives several shapes: each is a batch of its own.
        for group in shapes.values():
            stacked = torch.from_numpy(np.stack([pixels for _, pixels in group]))
            rows = self._forward(stacked, network)
            for (position, _), row in zip(group, rows, strict=True):
                outcomes[position] = _outcome(batch[position][0], row)
        return iter([outcome for outcome in outcomes if outcome is not None])

    def _forward(self, pixels: Tensor, network: Callable[[Tensor], Tensor]) -> np.ndarray:
        training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                return network(pixels.to(self.device, self.dtype)).float().cpu().numpy()
        finally:
            self.model.train(training)


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


def _device(name: str) -> torch.device:
    here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    here += ["mps"] if torch.backends.mps.is_available() else []
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and torch.cuda.is_available():
        return torch.device("cuda")
    if name not in here:
        raise ValueError(f"there is no device '{name}' here; there is auto, {', '.join(here)}")
    return torch.device(name)


def _placed(model: Backbone, device: torch.device, dtype: torch.dtype) -> Backbone:
    """The model on that device in that type; a copy where the caller's own would change."""
    parameter = next(model.parameters())
    if parameter.device != device or parameter.dtype != dtype:
        import copy

        model = copy.deepcopy(model).to(device, dtype)
    return model
