"""Batches of a source. For training, sample number g of a run is a pure function of (seed, g) and of nothing else.

An epoch is a permutation drawn from (seed, epoch); the stream of samples is one epoch after the other, and a batch may
cross the edge. What is random in a sample is drawn from (seed, epoch, index). So the order, and every pixel, is the
same for any number of workers and any world size, and where a run stands is one integer: how many samples it has
consumed.
"""

import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vitkit.data import Label, Source
from vitkit.data.augment import Transform
from vitkit.images import ImageError

ORDER, SAMPLE = 1, 2  # the streams of random numbers that a seed gives
MAX_TRIES = 20


@dataclass(frozen=True)
class Batch:
    """Prepared pictures with their targets: the share of each class, one-hot unless classes are mixed or several.

    `keys` name the pictures in messages; `replaced` those that could not be read and have another in their place.
    """

    images: Float[Tensor, "b c height width"]
    targets: Float[Tensor, "b classes"]
    keys: tuple[str, ...]
    replaced: tuple[str, ...] = ()

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        images = self.images.to(device, non_blocking=True)
        return Batch(images, self.targets.to(device, non_blocking=True), self.keys, self.replaced)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """How the training samples of a run are drawn; `batch_size` counts the samples of all processes together."""

    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    workers: int = 0

    def __post_init__(self) -> None:
        """Refuses batches that cannot be dealt out evenly."""
        if self.batch_size < 1 or self.batch_size % self.world_size:
            raise ValueError(f"a batch of {self.batch_size} cannot be dealt evenly to {self.world_size} processes")
        if self.workers < 0 or self.seed < 0:
            raise ValueError(f"seed is {self.seed} and workers {self.workers}; both must be at least 0")


def permutation(num: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch over `num` samples."""
    return _random(seed, ORDER, epoch, 0).permutation(num)


def sample_random(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator for all that is random in one sample."""
    return _random(seed, SAMPLE, epoch, index)


def training_batches(source: Source, transform: Transform, stream: Stream, *, consumed: int = 0) -> Iterator[Batch]:
    """Endless batches of this process, from the sample after the first `consumed` of the run on.

    An unreadable picture is replaced by another that depends on (seed, epoch, index) alone, and is named in the batch.
    """
    return iter(
        _loader(_Training(source, transform, stream.seed), _places(len(source), stream, consumed), stream.workers)
    )


def evaluation_batches(source: Source, transform: Transform, *, batch_size: int, workers: int = 0) -> Iterator[Batch]:
    """Every picture once, in order, unchanged; the last batch may be smaller. An unreadable picture is an
    ImageError.
    """
    places = (
        [(0, index) for index in range(start, min(start + batch_size, len(source)))]
        for start in range(0, len(source), batch_size)
    )
    return iter(_loader(_Evaluation(source, transform), places, workers))


Place = tuple[int, int]  # epoch and index


def _places(num: int, stream: Stream, consumed: int) -> Iterator[list[Place]]:
    share = stream.batch_size // stream.world_size
    epoch, order = -1, np.empty(0, dtype=np.int64)
    start = consumed + stream.rank * share
    while True:
        batch: list[Place] = []
        for number in range(start, start + share):
            if number // num != epoch:
                epoch = number // num
                order = permutation(num, stream.seed, epoch)
            batch.append((epoch, int(order[number % num])))
        yield batch
        start += stream.batch_size


@dataclass(frozen=True)
class _Sample:
    image: np.ndarray
    label: Label
    key: str
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Training(Dataset[_Sample]):
    source: Source
    transform: Transform
    seed: int

    def __getitem__(self, place: Place) -> _Sample:
        epoch, index = place
        random = sample_random(self.seed, epoch, index)
        replaced: list[str] = []
        for _ in range(MAX_TRIES):
            try:
                example = self.source.read(index)
                return _Sample(self.transform(example.image, random), example.label, example.key, tuple(replaced))
            except ImageError as error:
                replaced.append(f"picture {index}: {error}")
                index = int(random.integers(len(self.source)))
        raise ValueError(f"{MAX_TRIES} pictures in a row cannot be read, the last was {replaced[-1]}")


@dataclass(frozen=True)
class _Evaluation(Dataset[_Sample]):
    source: Source
    transform: Transform

    def __getitem__(self, place: Place) -> _Sample:
        example = self.source.read(place[1])
        return _Sample(self.transform(example.image), example.label, example.key)


@dataclass(frozen=True)
class _Collate:
    num_classes: int

    def __call__(self, samples: Sequence[_Sample]) -> Batch:
        targets = torch.zeros(len(samples), self.num_classes)
        for row, sample in enumerate(samples):
            targets[row, list(sample.label) if isinstance(sample.label, tuple) else sample.label] = 1.0
        return Batch(
            images=torch.from_numpy(np.stack([sample.image for sample in samples])),
            targets=targets,
            keys=tuple(sample.key for sample in samples),
            replaced=tuple(name for sample in samples for name in sample.replaced),
        )


def _loader(dataset: "_Training | _Evaluation", places: Iterable[list[Place]], workers: int) -> DataLoader[Batch]:
    return DataLoader(
        dataset,
        batch_sampler=places,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_Collate(len(dataset.source.classes)),
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_signals_to_main,
        # Without its own generator it would draw from torch's global one, and change the run.
        generator=torch.Generator(),
    )


def _leave_signals_to_main(worker: int) -> None:
    # Ctrl-C and a scheduler's SIGTERM reach every process: the main one needs its batches until it has saved.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _random(seed: int, stream: int, epoch: int, index: int) -> np.random.Generator:
    # A counter-based generator: each (epoch, index) has 2^128 numbers of its own, and nothing is hashed.
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, index, epoch]))
