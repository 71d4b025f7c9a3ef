"""The loader is a pure function of (seed, sample number): workers, processes and resuming change nothing."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit.data import Example, Source, source
from vitkit.data.augment import Augment, Transform, move
from vitkit.data.loader import Batch, Stream, evaluation_batches, permutation, sample_random, training_batches
from vitkit.data.processor import Processor
from vitkit.images import ImageError

AUGMENT = Augment(rotate=20.0, shift=0.1, zoom=0.2, flip=True)
TRANSFORM = Transform(Processor.squash(8), AUGMENT)


class Noise(Source):
    """Twenty-three pictures of noise, some of which cannot be read."""

    classes = ("even", "odd", "both")

    def __init__(self, broken: tuple[int, ...] = ()):
        self.broken = broken

    def __len__(self) -> int:
        return 23

    def read(self, index: int, **opening: object) -> Example:
        if index in self.broken:
            raise ImageError("truncated", "it ends too soon")
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
        assert a.replaced == b.replaced


def joined(batches: list[Batch]) -> Batch:
    return Batch(
        torch.cat([batch.images for batch in batches]),
        torch.cat([batch.targets for batch in batches]),
        tuple(key for batch in batches for key in batch.keys),
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int) -> None:
    assert_same(take(7), take(7, workers=workers))


@pytest.mark.parametrize("world", [2, 4, 8])
def test_the_world_size_changes_nothing(world: int) -> None:
    ranks = [take(7, rank=rank, world_size=world) for rank in range(world)]
    together = [joined([ranks[rank][step] for rank in range(world)]) for step in range(7)]
    assert_same(take(7), together)


@pytest.mark.parametrize("consumed", [8, 16, 24, 48])
def test_it_goes_on_from_any_number_of_samples(consumed: int) -> None:
    assert_same(take(7)[consumed // 8 :], take(7 - consumed // 8, consumed=consumed))
    # Even with another batch size, and in the middle of an epoch.
    one, other = joined(take(8)[consumed // 8 :]), joined(take(64, batch_size=1, consumed=consumed)[: 64 - consumed])
    assert one.keys == other.keys
    assert torch.equal(one.images, other.images)


def test_an_epoch_is_every_sample_once_and_epochs_differ() -> None:
    keys = [key for batch in take(23) for key in batch.keys]
    epochs = [keys[start : start + 23] for start in range(0, 184, 23)]
    assert all(sorted(epoch, key=int) == [str(index) for index in range(23)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 8
    assert epochs[0] == [str(index) for index in permutation(23, 3, 0)]
    assert take(1, seed=4)[0].keys != take(1)[0].keys


def test_a_picture_changes_from_epoch_to_epoch() -> None:
    batches = take(6)
    keys = [key for batch in batches for key in batch.keys]
    images = torch.cat([batch.images for batch in batches])
    first, second = (position for position, key in enumerate(keys) if key == keys[0])
    assert not torch.equal(images[first], images[second])


def test_reading_leaves_torchs_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    take(3)
    take(3, workers=1)
    assert torch.equal(torch.rand(4), expected)


def test_targets_are_the_share_of_each_class() -> None:
    batch = joined(take(23)[:3])
    for key, target in zip(batch.keys, batch.targets, strict=True):
        expected = [1.0, 1.0, 0.0] if key == "22" else [1.0 - int(key) % 2, int(key) % 2, 0.0]
        assert target.tolist() == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_is_every_picture_once_in_order_and_unchanged(workers: int) -> None:
    batches = list(evaluation_batches(Noise(), TRANSFORM, batch_size=5, workers=workers))
    assert [len(batch.keys) for batch in batches] == [5, 5, 5, 5, 3]
    whole = joined(batches)
    assert whole.keys == tuple(str(index) for index in range(23))
    plain = np.stack([TRANSFORM.processor.array(Noise().read(index).image) for index in range(23)])
    np.testing.assert_array_equal(whole.images.numpy(), plain)


def test_unreadable_pictures_are_replaced_the_same_way_everywhere_and_named() -> None:
    broken = Noise(broken=(1, 5, 7))
    batches = take(6, source=broken)
    assert_same(batches, take(6, source=broken, workers=2))
    assert_same(batches[2:], take(4, source=broken, consumed=16))
    named = [name for batch in batches for name in batch.replaced]
    assert {"picture 1: it ends too soon", "picture 5: it ends too soon"} <= set(named)
    assert not {"1", "5", "7"} & {key for batch in batches for key in batch.keys}


def test_nothing_readable_is_an_error_in_training_and_one_picture_in_evaluation() -> None:
    with pytest.raises(ValueError, match="20 pictures in a row cannot be read"):
        take(1, source=Noise(broken=tuple(range(23))))
    with pytest.raises(ImageError, match="it ends too soon"):
        list(evaluation_batches(Noise(broken=(4,)), TRANSFORM, batch_size=5))


def test_batches_that_cannot_be_dealt_are_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 8 cannot be dealt evenly to 3 processes"):
        Stream(batch_size=8, world_size=3)


def test_without_changes_training_sees_what_evaluation_sees() -> None:
    image = Noise().read(0).image
    plain = Transform(Processor.crop(8))
    np.testing.assert_array_equal(plain(image, sample_random(0, 0, 0)), plain(image))
    np.testing.assert_array_equal(plain(image), Processor.crop(8).array(image))


def test_moving_by_whole_pixels_is_a_shift_and_by_nothing_the_same() -> None:
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
    turned = np.asarray(move(image, Augment(rotate=90.0), Fixed(1, 0, 0, 0)))  # type: ignore[arg-type]
    # Clockwise, and bilinear weights of 1 to within a rounding of the sine.
    np.testing.assert_allclose(turned.astype(int), np.rot90(np.asarray(image), -1).astype(int), atol=1)


def test_files_are_opened_as_the_processor_says(tmp_path: Path) -> None:
    """What a processor says of backgrounds and profiles holds for files of a source as for those of a predictor."""
    (tmp_path / "a").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a" / "1.png")
    data = (tmp_path / "a" / "1.png").read_bytes()
    seen = []
    for background in ((255, 255, 255), (0, 0, 0)):
        processor = Processor.squash(16, background=background, profile="ignore")
        assert Transform(processor).opening == {"background": background, "profile": "ignore"}
        (batch,) = evaluation_batches(source(f"folder:{tmp_path}"), Transform(processor), batch_size=1)
        np.testing.assert_array_equal(batch.images[0].numpy(), processor.array(data))
        seen.append(batch.images)
    assert not torch.equal(*seen)
