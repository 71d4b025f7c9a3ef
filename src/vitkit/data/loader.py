"""Loads batches from a source. A training sample depends only on the seed and the number of the sample.

An epoch is a permutation that depends on (seed, epoch). The samples of a run are the epochs one after the other; a
batch may contain samples of two epochs. Random augmentation of a sample depends on (seed, epoch, index). The order and
every pixel are therefore the same for any number of workers and any world size, and the position in a run is one
integer: the number of consumed samples. With repeated augmentation, R consecutive samples are differently augmented
copies of one image. Mixing depends on (seed, number of the first sample of the batch), and on the position in the batch
if each element has its own parameters. The partner of an image may be in the batch of another process (see
`mixing.partner`), so each process reads a few images more than its own.

An unreadable image ends neither training nor evaluation: it is replaced by another one or left out, and reported.
"""

import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vitkit import discovery
from vitkit.data import Label, Source
from vitkit.data.augment import Augment, Transform
from vitkit.data.augment.mixing import mix_groups, partner, sample_mix
from vitkit.data.unreadable import TooManyUnreadable, Unreadable, UnreadableImage
from vitkit.images import ImageError

ORDER, SAMPLE, MIX = 1, 2, 4  # streams of random numbers of a seed; `train.loop` uses 3
MAX_TRIES = 20


@dataclass(frozen=True)
class Batch:
    """A batch of preprocessed images and soft targets.

    images      normalized pixels
    targets     weight of each class: one-hot unless images are mixed or have several labels; numbers for a regression
    keys        names of the images
    unreadable  images that were replaced by others in training, or left out in evaluation
    """

    images: Float[Tensor, "b c height width"]
    targets: Float[Tensor, "b classes"]
    keys: tuple[str, ...]
    unreadable: tuple[UnreadableImage, ...] = ()

    def to(self, device: torch.device) -> "Batch":
        """Copies the batch to a device."""
        images = self.images.to(device, non_blocking=True)
        return Batch(images, self.targets.to(device, non_blocking=True), self.keys, self.unreadable)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Settings of the order of training samples. `batch_size` is the global batch size over all processes."""

    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    workers: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError if a setting is invalid."""
        if self.batch_size < 1 or self.batch_size % self.world_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of the number of processes, {self.world_size}"
            )
        if self.workers < 0 or self.seed < 0:
            raise ValueError(f"seed is {self.seed} and workers is {self.workers}; both must be at least 0")


def permutation(num: int, seed: int, epoch: int) -> np.ndarray:
    """Returns a random permutation of `num` samples, which depends on the seed and the epoch."""
    return _random(seed, ORDER, epoch, 0).permutation(num)


def sample_random(seed: int, epoch: int, index: int, copy: int = 0) -> np.random.Generator:
    """Returns the random number generator for the augmentation of one sample."""
    return _random(seed, SAMPLE, epoch, index, copy)


def training_batches(source: Source, transform: Transform, stream: Stream, *, consumed: int = 0) -> Iterator[Batch]:
    """Returns an endless iterator over the training batches of this process, starting after `consumed` samples.

    An unreadable image is replaced by another one, chosen by (seed, epoch, index), and listed in `Batch.unreadable`.
    Raises ValueError if the batch is too small for mixing. The iterator raises TooManyUnreadable if no replacement can
    be read, either.
    """
    augment = transform.augment
    check_mixing(augment, stream)
    dataset = _Training(source, transform, stream.seed)
    samples = _samples(len(source), stream, augment, consumed)
    collate = _MixingCollate(len(source.classes), augment, stream) if augment.mixing.active else None
    return _raised(_loader(dataset, samples, stream.workers, collate))


def _raised(batches: Iterable[Batch | TooManyUnreadable]) -> Iterator[Batch]:
    """Yields batches, and raises an error that a worker returned in place of a batch."""
    for batch in batches:
        if isinstance(batch, TooManyUnreadable):
            raise batch
        yield batch


def check_mixing(augment: Augment, stream: Stream) -> None:
    """Raises ValueError if the batch size is too small for Mixup or CutMix."""
    least = 2 * augment.repeats
    if augment.mixing.active and stream.batch_size < least:
        raise ValueError(
            f"batch_size {stream.batch_size} is too small for mixing with repeats={augment.repeats}; it must be "
            f"at least {least}"
        )


def evaluation_batches(
    source: Source, transform: Transform, *, batch_size: int, workers: int = 0, unreadable: Unreadable | None = None
) -> Iterator[Batch]:
    """Returns an iterator over all images in order, without augmentation. The last batch may be smaller.

    Unreadable images are left out and added to `unreadable`, which raises TooManyUnreadable above its limit. Without
    it, the first of them raises TooManyUnreadable.
    """
    samples = (
        [SampleIndex(0, index) for index in range(start, min(start + batch_size, len(source)))]
        for start in range(0, len(source), batch_size)
    )
    for batch in _raised(_loader(_Evaluation(source, transform), samples, workers)):
        if batch.unreadable and unreadable is None:
            raise TooManyUnreadable(str(batch.unreadable[0]))
        if unreadable is not None:
            unreadable.add(batch.unreadable)
        if batch.keys:
            yield batch


def check_readable(source: Source, transform: Transform, what: str) -> None:
    """Reads evenly spaced images until one can be read. Raises TooManyUnreadable if none of about 20 can be read."""
    dataset, failed = _Evaluation(source, transform), None
    for index in range(0, len(source), max(1, len(source) // MAX_TRIES)):
        sample = dataset[SampleIndex(0, index)]
        if not isinstance(sample, UnreadableImage):
            return
        failed = failed or sample
    if failed is not None:
        raise TooManyUnreadable(f"no {what} image can be read; the first error is: {failed.reason}")


@dataclass(frozen=True, slots=True)
class SampleIndex:
    """The epoch, image index and copy number of a training sample, and the start of its batch.

    epoch  number of the epoch
    index  index of the image in the source
    copy   number of the copy under repeated augmentation
    start  number of the first sample of the batch
    """

    epoch: int
    index: int
    copy: int = 0
    start: int = 0


def _samples(num: int, stream: Stream, augment: Augment, consumed: int) -> Iterator[list[SampleIndex]]:
    size, repeats = stream.batch_size, augment.repeats
    positions = _positions(stream, augment)
    orders: dict[int, np.ndarray] = {}
    for start in count(consumed, size):
        batch: list[SampleIndex] = []
        for offset in positions:
            epoch, position = divmod(start + offset, num)
            if epoch not in orders:
                orders[epoch] = permutation(num, stream.seed, epoch)
            batch.append(SampleIndex(epoch, int(orders[epoch][position // repeats]), position % repeats, start))
        orders = {epoch: order for epoch, order in orders.items() if epoch >= start // num}
        yield batch


def _positions(stream: Stream, augment: Augment) -> list[int]:
    """Returns the global batch positions that this process loads: its own samples, then their mixing partners."""
    size = stream.batch_size // stream.world_size
    own = range(stream.rank * size, (stream.rank + 1) * size)
    if not augment.mixing.active:
        return list(own)
    partners = {partner(each, stream.batch_size, augment.repeats, augment.mixing.mode) for each in own}
    return [*own, *sorted(partners.difference(own))]


@dataclass(frozen=True)
class _Sample:
    image: np.ndarray
    label: Label
    key: str
    targets: tuple[float, ...] = ()
    unreadable: tuple[UnreadableImage, ...] = ()
    start: int = 0


class _PluginFiles:
    """The plug-in files of this process. A process that unpickles this object loads the files."""

    def __reduce__(self) -> tuple[object, ...]:
        return _load_plugins, (discovery.loaded(),)


class _Portable:
    """Mixin of datasets. A worker process that unpickles the dataset first loads the plug-in files."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced = super().__reduce_ex__(protocol)
        # Arguments are unpickled in order: the files are loaded before objects whose classes they define.
        return (_restored, (_PluginFiles(), *reduced[:3])) if discovery.loaded() else reduced


def _load_plugins(files: Iterable[str]) -> None:
    for file in files:
        discovery.load(file)


def _restored(
    plugins: None, create: Callable[..., Any], arguments: tuple[object, ...], state: Mapping[str, object]
) -> object:
    restored = create(*arguments)
    restored.__dict__.update(state)
    return restored


@dataclass(frozen=True)
class _Training(_Portable, Dataset[_Sample | TooManyUnreadable]):
    source: Source
    transform: Transform
    seed: int

    def __getitem__(self, sample: SampleIndex) -> _Sample | TooManyUnreadable:
        index = sample.index
        random = sample_random(self.seed, sample.epoch, index, sample.copy)
        failed: list[UnreadableImage] = []
        for _ in range(MAX_TRIES):
            try:
                example = self.source.read(index, **self.transform.read_options)
                image = self.transform(example.image, random)
                return _Sample(image, example.label, example.key, example.targets, tuple(failed), sample.start)
            except ImageError as error:
                failed.append(UnreadableImage(index, str(error)))
                index = int(random.integers(len(self.source)))
        return TooManyUnreadable(f"{MAX_TRIES} images in a row cannot be read; the last error is: {failed[-1]}")


@dataclass(frozen=True)
class _Evaluation(_Portable, Dataset[_Sample | UnreadableImage]):
    source: Source
    transform: Transform

    def __getitem__(self, sample: SampleIndex) -> _Sample | UnreadableImage:
        try:
            example = self.source.read(sample.index, **self.transform.read_options)
            return _Sample(self.transform(example.image), example.label, example.key, example.targets)
        except ImageError as error:
            return UnreadableImage(sample.index, str(error))


def _failure(samples: Sequence[object]) -> TooManyUnreadable | None:
    return next((each for each in samples if isinstance(each, TooManyUnreadable)), None)


@dataclass(frozen=True)
class _Collate:
    num_classes: int

    def __call__(self, samples: Sequence[_Sample | UnreadableImage | TooManyUnreadable]) -> Batch | TooManyUnreadable:
        left_out = tuple(sample for sample in samples if isinstance(sample, UnreadableImage))
        return _failure(samples) or self.batch([each for each in samples if isinstance(each, _Sample)], left_out)

    def batch(self, samples: Sequence[_Sample], left_out: tuple[UnreadableImage, ...] = ()) -> Batch:
        """Returns the batch of the samples. The batch is empty if every image was unreadable."""
        targets = torch.zeros(len(samples), self.num_classes)
        for row, sample in enumerate(samples):
            labels = sample.label if isinstance(sample.label, tuple) else (sample.label,)
            targets[row, [label for label in labels if label >= 0]] = 1.0
            if sample.targets:
                targets[row] = torch.tensor(sample.targets)
        images = [sample.image for sample in samples]
        return Batch(
            images=torch.from_numpy(np.stack(images)) if images else torch.empty(0, 0, 0, 0),
            targets=targets,
            keys=tuple(sample.key for sample in samples),
            unreadable=left_out + tuple(each for sample in samples for each in sample.unreadable),
        )


@dataclass(frozen=True)
class _MixingCollate:
    """Collates the samples of this process and mixes their images with partners from the global batch."""

    num_classes: int
    augment: Augment
    stream: Stream

    def __call__(self, samples: Sequence[_Sample | TooManyUnreadable]) -> Batch | TooManyUnreadable:
        return _failure(samples) or self.batch([each for each in samples if isinstance(each, _Sample)])

    def batch(self, samples: Sequence[_Sample]) -> Batch:
        """Returns the batch of this process after Mixup or CutMix."""
        mixing, repeats, size = self.augment.mixing, self.augment.repeats, self.stream.batch_size
        local, start = size // self.stream.world_size, samples[0].start
        positions = _positions(self.stream, self.augment)
        batch = _Collate(self.num_classes).batch(samples)
        row_of = {position: row for row, position in enumerate(positions)}
        partners = [row_of[partner(position, size, repeats, mixing.mode)] for position in positions[:local]]
        images, targets = batch.images.numpy(), batch.targets.numpy()
        mixed, mixed_targets = images[:local].copy(), targets[:local].copy()
        for group, rows in mix_groups(positions[:local], size, repeats, mixing.mode).items():
            mix = sample_mix(mixing, images.shape[-2:], _random(self.stream.seed, MIX, 0, start, group))
            others = [partners[row] for row in rows]
            mixed[rows], mixed_targets[rows] = mix(images[rows], targets[rows], (images[others], targets[others]))
        unreadable = tuple(each for sample in samples[:local] for each in sample.unreadable)
        return Batch(torch.from_numpy(mixed), torch.from_numpy(mixed_targets), batch.keys[:local], unreadable)


def _loader(
    dataset: "_Training | _Evaluation",
    samples: Iterable[list[SampleIndex]],
    workers: int,
    collate: _MixingCollate | None = None,
) -> DataLoader[Batch | TooManyUnreadable]:
    return DataLoader(
        dataset,
        batch_sampler=samples,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate or _Collate(len(dataset.source.classes)),
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_ignore_signals,
        # Without its own generator, the loader would advance the global generator of torch.
        generator=torch.Generator(),
    )


def _ignore_signals(worker: int) -> None:
    # SIGINT and SIGTERM reach every process; the main process still needs batches until it has saved a checkpoint.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _random(seed: int, stream: int, epoch: int, index: int, copy: int = 0) -> np.random.Generator:
    # Philox is counter-based: each (epoch, index, copy) has a stream of 2^64 numbers of its own.
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, copy, index, epoch]))
