"""Batches of a source. For training, sample number g of a run is a pure function of (seed, g) and of nothing else.

An epoch is a permutation drawn from (seed, epoch); the stream of samples is one epoch after the other, and a batch may
cross the edge. What is random in a sample is drawn from (seed, epoch, index). So the order, and every pixel, is the
same for any number of workers and any world size, and where a run stands is one integer: how many samples it has
consumed. With repeats, R samples in a row are copies of one picture, each changed in its own way. What mixes a batch is
drawn from (seed, its first sample), and the number of the picture where each has its own; its partner is found in the
batch of all processes (see `mixing.partner`), so each process reads a few pictures more than its share.
"""

import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vitkit.data import Label, Source
from vitkit.data.augment import Augment, Transform
from vitkit.data.augment.mixing import draw, draws, partner
from vitkit.images import ImageError

ORDER, SAMPLE, MIX = 1, 2, 4  # the streams of random numbers that a seed gives; `train.loop` has 3
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


def sample_random(seed: int, epoch: int, index: int, copy: int = 0) -> np.random.Generator:
    """The generator for all that is random in one sample."""
    return _random(seed, SAMPLE, epoch, index, copy)


def training_batches(source: Source, transform: Transform, stream: Stream, *, consumed: int = 0) -> Iterator[Batch]:
    """Endless batches of this process, from the sample after the first `consumed` of the run on.

    An unreadable picture is replaced by another that depends on (seed, epoch, index) alone, and is named in the batch.
    Raises ValueError for batches too small to be mixed.
    """
    augment = transform.augment
    refuse_unmixable(augment, stream)
    dataset = _Training(source, transform, stream.seed)
    places = _places(len(source), stream, augment, consumed)
    collate = _MixingCollate(len(source.classes), augment, stream) if augment.mixing.active else None
    return iter(_loader(dataset, places, stream.workers, collate))


def refuse_unmixable(augment: Augment, stream: Stream) -> None:
    """Raises ValueError for batches too small to be mixed."""
    least = 2 * augment.repeats
    if augment.mixing.active and stream.batch_size < least:
        copies = f"with {augment.repeats} copies of each picture it takes at least {least}"
        raise ValueError(f"a batch of {stream.batch_size} cannot be mixed: {copies}")


def evaluation_batches(source: Source, transform: Transform, *, batch_size: int, workers: int = 0) -> Iterator[Batch]:
    """Every picture once, in order, unchanged; the last batch may be smaller. ImageError for an unreadable picture."""
    places = (
        [Place(0, index) for index in range(start, min(start + batch_size, len(source)))]
        for start in range(0, len(source), batch_size)
    )
    return iter(_loader(_Evaluation(source, transform), places, workers))


@dataclass(frozen=True, slots=True)
class Place:
    """Which sample: the picture's number, its epoch, which of its copies, and the sample that its batch starts with."""

    epoch: int
    index: int
    copy: int = 0
    start: int = 0


def _places(num: int, stream: Stream, augment: Augment, consumed: int) -> Iterator[list[Place]]:
    size, repeats = stream.batch_size, augment.repeats
    numbers = _numbers(stream, augment)
    orders: dict[int, np.ndarray] = {}
    for start in count(consumed, size):
        batch: list[Place] = []
        for number in numbers:
            epoch, position = divmod(start + number, num)
            if epoch not in orders:
                orders[epoch] = permutation(num, stream.seed, epoch)
            batch.append(Place(epoch, int(orders[epoch][position // repeats]), position % repeats, start))
        orders = {epoch: order for epoch, order in orders.items() if epoch >= start // num}
        yield batch


def _numbers(stream: Stream, augment: Augment) -> list[int]:
    """Which pictures of the batch of all processes are this one's, and then which are partners of these elsewhere."""
    share = stream.batch_size // stream.world_size
    own = range(stream.rank * share, (stream.rank + 1) * share)
    if not augment.mixing.active:
        return list(own)
    partners = {partner(number, stream.batch_size, augment.repeats, augment.mixing.mode) for number in own}
    return [*own, *sorted(partners.difference(own))]


@dataclass(frozen=True)
class _Sample:
    image: np.ndarray
    label: Label
    key: str
    replaced: tuple[str, ...] = ()
    start: int = 0


@dataclass(frozen=True)
class _Training(Dataset[_Sample]):
    source: Source
    transform: Transform
    seed: int

    def __getitem__(self, place: Place) -> _Sample:
        index = place.index
        random = sample_random(self.seed, place.epoch, index, place.copy)
        replaced: list[str] = []
        for _ in range(MAX_TRIES):
            try:
                example = self.source.read(index, **self.transform.opening)
                image = self.transform(example.image, random)
                return _Sample(image, example.label, example.key, tuple(replaced), place.start)
            except ImageError as error:
                replaced.append(f"picture {index}: {error}")
                index = int(random.integers(len(self.source)))
        raise ValueError(f"{MAX_TRIES} pictures in a row cannot be read, the last was {replaced[-1]}")


@dataclass(frozen=True)
class _Evaluation(Dataset[_Sample]):
    source: Source
    transform: Transform

    def __getitem__(self, place: Place) -> _Sample:
        example = self.source.read(place.index, **self.transform.opening)
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


@dataclass(frozen=True)
class _MixingCollate:
    """The batch of all processes mixed, as far as this one needs it."""

    num_classes: int
    augment: Augment
    stream: Stream

    def __call__(self, samples: Sequence[_Sample]) -> Batch:
        mixing, repeats, size = self.augment.mixing, self.augment.repeats, self.stream.batch_size
        share, start = size // self.stream.world_size, samples[0].start
        numbers = _numbers(self.stream, self.augment)
        whole = _Collate(self.num_classes)(samples)
        places = {number: place for place, number in enumerate(numbers)}
        others = [places[partner(number, size, repeats, mixing.mode)] for number in numbers[:share]]
        images, targets = whole.images.numpy(), whole.targets.numpy()
        mixed, shares = images[:share].copy(), targets[:share].copy()
        for drawn, rows in draws(numbers[:share], size, repeats, mixing.mode).items():
            mix = draw(mixing, images.shape[-2:], _random(self.stream.seed, MIX, 0, start, drawn))
            theirs = [others[row] for row in rows]
            mixed[rows], shares[rows] = mix(images[rows], targets[rows], (images[theirs], targets[theirs]))
        replaced = tuple(name for sample in samples[:share] for name in sample.replaced)
        return Batch(torch.from_numpy(mixed), torch.from_numpy(shares), whole.keys[:share], replaced)


def _loader(
    dataset: "_Training | _Evaluation",
    places: Iterable[list[Place]],
    workers: int,
    collate: _MixingCollate | None = None,
) -> DataLoader[Batch]:
    return DataLoader(
        dataset,
        batch_sampler=places,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate or _Collate(len(dataset.source.classes)),
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_signals_to_main,
        # Without its own generator it would draw from torch's global one, and change the run.
        generator=torch.Generator(),
    )


def _leave_signals_to_main(worker: int) -> None:
    # Ctrl-C and a scheduler's SIGTERM reach every process: the main one needs its batches until it has saved.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _random(seed: int, stream: int, epoch: int, index: int, copy: int = 0) -> np.random.Generator:
    # A counter-based generator: each (epoch, index, copy) has 2^64 draws of its own, and nothing is hashed.
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, copy, index, epoch]))
