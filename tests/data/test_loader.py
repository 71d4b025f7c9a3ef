"""The loader: batches do not depend on workers, processes and resuming."""

from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit.data import Example, Source, source
from vitkit.data.augment import Augment, Transform, move
from vitkit.data.loader import (
    Batch,
    Stream,
    check_readable,
    evaluation_batches,
    permutation,
    sample_random,
    training_batches,
)
from vitkit.data.processor import Processor
from vitkit.data.unreadable import TooManyUnreadable, Unreadable
from vitkit.images import DEFAULT_LIMITS, ImageError

AUGMENT = Augment(rotate=20.0, shift=0.1, zoom=0.2, flip=True)
TRANSFORM = Transform(Processor.squash(8), AUGMENT)


class Noise(Source):
    """Source of 23 noise images, some of them unreadable."""

    classes = ("even", "odd", "both")

    def __init__(self, broken: tuple[int, ...] = ()):
        self.broken = broken

    def __len__(self) -> int:
        return 23

    def read(self, index: int, **options: object) -> Example:
        if index in self.broken:
            raise ImageError("truncated", "it is truncated")
        pixels = np.random.default_rng(index).integers(0, 256, (10, 12, 3), dtype=np.uint8)
        return Example(image=Image.fromarray(pixels), label=self.label(index), key=str(index))

    def label(self, index: int) -> int | tuple[int, ...]:
        return (0, 1) if index == 22 else index % 2


def take(num: int, *, consumed: int = 0, source: Source | None = None, **options: int) -> list[Batch]:
    stream = Stream(**{"batch_size": 8, "seed": 3, **options})
    return list(islice(training_batches(source or Noise(), TRANSFORM, stream, consumed=consumed), num))


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys == b.keys
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.targets, b.targets)
        assert a.unreadable == b.unreadable


def concatenate(batches: list[Batch]) -> Batch:
    return Batch(
        torch.cat([batch.images for batch in batches]),
        torch.cat([batch.targets for batch in batches]),
        tuple(key for batch in batches for key in batch.keys),
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers(workers: int) -> None:
    assert_same(take(7), take(7, workers=workers))


@pytest.mark.parametrize("world", [2, 4, 8])
def test_batches_do_not_depend_on_the_world_size(world: int) -> None:
    ranks = [take(7, rank=rank, world_size=world) for rank in range(world)]
    combined = [concatenate([ranks[rank][step] for rank in range(world)]) for step in range(7)]
    assert_same(take(7), combined)


@pytest.mark.parametrize("consumed", [8, 16, 24, 48])
def test_it_resumes_after_any_number_of_samples(consumed: int) -> None:
    assert_same(take(7)[consumed // 8 :], take(7 - consumed // 8, consumed=consumed))
    # Also with another batch size, in the middle of an epoch.
    one, other = (
        concatenate(take(8)[consumed // 8 :]),
        concatenate(take(64, batch_size=1, consumed=consumed)[: 64 - consumed]),
    )
    assert one.keys == other.keys
    assert torch.equal(one.images, other.images)


def test_an_epoch_contains_every_sample_once_and_epochs_differ() -> None:
    keys = [key for batch in take(23) for key in batch.keys]
    epochs = [keys[start : start + 23] for start in range(0, 184, 23)]
    assert all(sorted(epoch, key=int) == [str(index) for index in range(23)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 8
    assert epochs[0] == [str(index) for index in permutation(23, 3, 0)]
    assert take(1, seed=4)[0].keys != take(1)[0].keys


def test_augmentation_differs_between_epochs() -> None:
    batches = take(6)
    keys = [key for batch in batches for key in batch.keys]
    images = torch.cat([batch.images for batch in batches])
    first, second = (position for position, key in enumerate(keys) if key == keys[0])
    assert not torch.equal(images[first], images[second])


def test_loading_does_not_use_the_global_generator() -> None:
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    take(3)
    take(3, workers=1)
    assert torch.equal(torch.rand(4), expected)


def test_targets_of_single_and_multiple_labels() -> None:
    batch = concatenate(take(23)[:3])
    for key, target in zip(batch.keys, batch.targets, strict=True):
        expected = [1.0, 1.0, 0.0] if key == "22" else [1.0 - int(key) % 2, int(key) % 2, 0.0]
        assert target.tolist() == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_reads_every_image_once_in_order_without_augmentation(workers: int) -> None:
    batches = list(evaluation_batches(Noise(), TRANSFORM, batch_size=5, workers=workers))
    assert [len(batch.keys) for batch in batches] == [5, 5, 5, 5, 3]
    result = concatenate(batches)
    assert result.keys == tuple(str(index) for index in range(23))
    plain = np.stack([TRANSFORM.processor.array(Noise().read(index).image) for index in range(23)])
    np.testing.assert_array_equal(result.images.numpy(), plain)


def test_unreadable_images_are_replaced_deterministically_and_listed() -> None:
    broken = Noise(broken=(1, 5, 7))
    batches = take(6, source=broken)
    assert_same(batches, take(6, source=broken, workers=2))
    assert_same(batches[2:], take(4, source=broken, consumed=16))
    replaced = [str(image) for batch in batches for image in batch.unreadable]
    assert {"image 1: it is truncated", "image 5: it is truncated"} <= set(replaced)
    assert not {"1", "5", "7"} & {key for batch in batches for key in batch.keys}


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_end_training_if_no_replacement_is_found(workers: int) -> None:
    with pytest.raises(
        TooManyUnreadable, match=r"^20 images in a row cannot be read; the last error is: image \d+: it is"
    ):
        take(1, source=Noise(broken=tuple(range(23))), workers=workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_are_left_out_of_the_evaluation_and_collected(workers: int) -> None:
    broken = (4, 10, 11, 12, 13, 14, 22)  # the third batch has no other image
    source, unreadable = Noise(broken=broken), Unreadable(23)
    for _ in range(2):  # two passes count each image once
        batches = list(evaluation_batches(source, TRANSFORM, batch_size=5, workers=workers, unreadable=unreadable))
        keys = [key for batch in batches for key in batch.keys]
        assert keys == [str(index) for index in range(23) if index not in broken]
        assert all(len(batch.keys) == batch.images.shape[0] == batch.targets.shape[0] > 0 for batch in batches)
    assert [image.index for image in unreadable.images] == list(broken)
    assert str(unreadable.images[0]) == "image 4: it is truncated"
    readable = unreadable.readable(source)
    assert [readable.read(index).key for index in range(len(readable))] == keys


def test_unreadable_images_end_an_evaluation_above_a_fraction_only() -> None:
    read = partial(evaluation_batches, transform=TRANSFORM, batch_size=5)
    with pytest.raises(TooManyUnreadable, match="image 4: it is truncated"):
        list(read(Noise(broken=(4,))))
    many = Noise(broken=tuple(range(11)))
    with pytest.raises(TooManyUnreadable, match=r"11 of 23 images could not be read, but the limit is 40%; .* is: it"):
        list(read(many, unreadable=Unreadable(23, limit=0.4)))
    assert len(list(read(many, unreadable=Unreadable(23, limit=0.5)))) == 3
    # Ten of a small set never end it, unless none is left.
    assert list(read(Noise(broken=tuple(range(10))), unreadable=Unreadable(23, limit=0.0)))
    with pytest.raises(TooManyUnreadable, match="none of 23 images could be read; the first error is: it is truncated"):
        list(read(Noise(broken=tuple(range(23))), unreadable=Unreadable(23)))


def test_a_source_without_a_readable_image_is_found_before_training() -> None:
    check_readable(Noise(broken=tuple(range(0, 23, 2))), TRANSFORM, "training")
    with pytest.raises(TooManyUnreadable, match="no training image can be read; the first error is: it is truncated"):
        check_readable(Noise(broken=tuple(range(23))), TRANSFORM, "training")


def test_uneven_batches_raise() -> None:
    with pytest.raises(ValueError, match="batch_size 8 is not a multiple of the number of processes, 3"):
        Stream(batch_size=8, world_size=3)


def test_training_without_augmentation_equals_evaluation() -> None:
    image = Noise().read(0).image
    plain = Transform(Processor.crop(8))
    np.testing.assert_array_equal(plain(image, sample_random(0, 0, 0)), plain(image))
    np.testing.assert_array_equal(plain(image), Processor.crop(8).array(image))


def test_moves_by_integers_shift_pixels_and_zero_is_the_identity() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))

    class Fixed:
        def __init__(self, *values: float):
            self.values = values

        def uniform(self, low: float, high: float, size: int) -> tuple[float, ...]:
            return self.values

    still = move(image, Augment(rotate=45.0, shift=0.5, zoom=0.5), Fixed(0, 0, 0, 0))  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.asarray(still), np.asarray(image))
    right = np.asarray(move(image, Augment(shift=0.25), Fixed(0, 1, 0, 0)))  # type: ignore[arg-type]
    np.testing.assert_array_equal(right[:, 4:], np.asarray(image)[:, :-4])
    down = np.asarray(move(image, Augment(shift=0.25), Fixed(0, 0, 1, 0)))  # type: ignore[arg-type]
    np.testing.assert_array_equal(down[4:], np.asarray(image)[:-4])
    rotated = np.asarray(move(image, Augment(rotate=90.0), Fixed(1, 0, 0, 0)))  # type: ignore[arg-type]
    # Clockwise; bilinear weights are 1 up to rounding of the sine.
    np.testing.assert_allclose(rotated.astype(int), np.rot90(np.asarray(image), -1).astype(int), atol=1)


def test_files_are_opened_with_the_options_of_the_processor(tmp_path: Path) -> None:
    """Background and profile of a processor apply to files of a source as to those of a predictor."""
    (tmp_path / "a").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a" / "1.png")
    data = (tmp_path / "a" / "1.png").read_bytes()
    results = []
    for background in ((255, 255, 255), (0, 0, 0)):
        processor = Processor.squash(16, background=background, profile="ignore")
        expected = {"limits": DEFAULT_LIMITS, "background": background, "profile": "ignore", "channels": 3}
        assert Transform(processor).read_options == {**expected, "data_range": None}
        (batch,) = evaluation_batches(source(f"folder:{tmp_path}"), Transform(processor), batch_size=1)
        np.testing.assert_array_equal(batch.images[0].numpy(), processor.array(data))
        results.append(batch.images)
    assert not torch.equal(*results)
