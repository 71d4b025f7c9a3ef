"""Random crops: both samplings against loops and originals, and how a crop is resized."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from vitkit.data.augment import Augment, Transform
from vitkit.data.augment.crop import Crop, crop_and_resize, tensorflow_box, torchvision_box
from vitkit.data.processor import Processor

SIZES = [(224, 224), (375, 500), (500, 375), (32, 32), (40, 400), (400, 40), (7, 5), (1, 1)]


class TorchNumbers:
    """torch's global generator with numpy's names, so that torchvision draws the very same numbers."""

    def uniform(self, low: float, high: float) -> float:
        return torch.empty(1).uniform_(low, high).item()

    def integers(self, high: int) -> int:
        return int(torch.randint(0, high, size=(1,)).item())


@pytest.mark.parametrize("size", SIZES)
def test_torchvisions_boxes_are_torchvisions(size: tuple[int, int]) -> None:
    for scale, ratio in (((0.08, 1.0), (3 / 4, 4 / 3)), ((0.3, 0.5), (0.9, 1.1))):
        torch.manual_seed(0)
        image = torch.empty(3, *size)
        theirs = [RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(200)]
        torch.manual_seed(0)
        ours = [torchvision_box(size, scale, ratio, TorchNumbers()) for _ in range(200)]  # type: ignore[arg-type]
        # Their logarithms are in float32: a rounding may fall otherwise, once in thousands.
        assert sum(a != b for a, b in zip(ours, theirs, strict=True)) <= 2


class Recorded:
    """A generator that remembers what it drew, to be told again."""

    def __init__(self, seed: int):
        self.random, self.drawn = np.random.default_rng(seed), []

    def uniform(self, low: float, high: float) -> float:
        self.drawn.append(self.random.uniform(low, high))
        return self.drawn[-1]

    def integers(self, low: int, high: int | None = None) -> int:
        self.drawn.append(int(self.random.integers(low, high)))
        return self.drawn[-1]


def literal(size: tuple[int, int], area: tuple[float, float], drawn: list[float]) -> tuple[int, int, int, int]:
    """The sampling as facts tell it, in plain words and double precision, by trying every height there is."""
    rows, columns = size
    numbers = iter(drawn)
    for _ in range(100):
        ratio = next(numbers)
        low, high = (
            round(math.sqrt(area[0] * rows * columns / ratio)),
            round(math.sqrt(area[1] * rows * columns / ratio)),
        )
        fitting = [height for height in range(high + 1) if height <= rows and round(height * ratio) <= columns]
        high = max(fitting)
        height = high if low >= high else next(numbers)
        assert min(low, high) <= height <= high
        for change, wrong in ((1, lambda pixels: pixels < area[0] * rows * columns),
                              (-1, lambda pixels: pixels > area[1] * rows * columns)):  # fmt: skip
            if wrong(height * round(height * ratio)):
                height += change
        width = round(height * ratio)
        if not area[0] * rows * columns <= height * width <= area[1] * rows * columns:
            continue
        if not (0 < height <= rows and 0 < width <= columns):
            continue
        top = next(numbers) if height < rows else 0
        left = next(numbers) if width < columns else 0
        return int(top), int(left), int(height), width
    return 0, 0, rows, columns


@pytest.mark.parametrize("size", SIZES)
def test_tensorflows_boxes_are_those_of_a_literal_loop(size: tuple[int, int]) -> None:
    differ = 0
    for seed in range(300):
        random, area = Recorded(seed), ((0.05, 1.0), (0.3, 0.6))[seed % 2]
        box = tensorflow_box(size, area, (0.75, 1.33), random)  # type: ignore[arg-type]
        try:
            differ += box != literal(size, area, random.drawn)
        except (StopIteration, AssertionError):
            differ += 1
        top, left, height, width = box
        assert 0 <= top <= size[0] - height
        assert 0 <= left <= size[1] - width
        # An offset is below the room there is, never all of it.
        assert top < size[0] - height or top == 0
    # The original rounds in float32: once in a while a half falls the other way.
    assert differ <= 3


def test_the_two_samplings_differ_as_documented() -> None:
    random = np.random.default_rng(0)
    boxes = {
        name: np.array([sample((400, 400), (0.05, 1.0), (0.75, 1.33), random) for _ in range(4000)])
        for name, sample in (("tensorflow", tensorflow_box), ("torchvision", torchvision_box))
    }
    area = {name: each[:, 2] * each[:, 3] / 160_000 for name, each in boxes.items()}
    # The height uniform from 89 to about 390 puts half of the crops below 36 % of the area; a uniform area below 46 %
    # of it, since the largest crops rarely fit.
    assert 0.31 < np.median(area["tensorflow"]) < 0.40
    assert 0.42 < np.median(area["torchvision"]) < 0.52
    assert all(0.049 < each.min() < 0.08 and each.max() > 0.85 for each in area.values())
    ratio = boxes["tensorflow"][:, 3] / boxes["tensorflow"][:, 2]
    assert abs(np.mean(ratio) - 1.04) < 0.02
    assert max(Counter(boxes["tensorflow"][:, 2].tolist()).values()) < 60  # many heights, none preferred


def test_tensorflows_resizing_looks_at_four_pixels_and_drops_fractions() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    crop = Crop(kind="tensorflow", area=(1.0, 1.0), aspect=(53 / 37, 53 / 37), resampling="bilinear_aliased")
    out = crop_and_resize(Image.fromarray(pixels), crop, Processor.squash((16, 20)), np.random.default_rng(0))
    out = np.asarray(out)
    for row in range(16):
        for column in range(20):
            y, x = (row + 0.5) * 37 / 16 - 0.5, (column + 0.5) * 53 / 20 - 0.5
            top, left = max(0, math.floor(y)), max(0, math.floor(x))
            bottom, right = min(36, top + 1), min(52, left + 1)
            down, across = max(0.0, y - top), max(0.0, x - left)
            upper = pixels[top, left] * (1 - across) + pixels[top, right] * across
            lower = pixels[bottom, left] * (1 - across) + pixels[bottom, right] * across
            exact = upper * (1 - down) + lower * down
            assert np.abs(out[row, column] - (exact - 0.5)).max() <= 0.5 + 1e-3


def test_a_simple_crop_is_a_window_of_the_padded_picture() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    padded = np.pad(pixels, [(2, 2), (2, 2), (0, 0)], mode="reflect")
    windows = {padded[y : y + 8, x : x + 8].tobytes() for y in range(5) for x in range(9)}
    crop, processor = Crop(kind="simple", padding=2), Processor.squash(8)
    random = np.random.default_rng(1)
    found = [crop_and_resize(Image.fromarray(pixels), crop, processor, random) for _ in range(400)]
    assert {np.asarray(each).tobytes() for each in found} == windows  # all 45 of them
    # big_vision's transfers: short side 10, then a window of 8.
    small = crop_and_resize(Image.fromarray(pixels), Crop(kind="simple", short_side=10), processor, random)
    resized = np.asarray(Image.fromarray(pixels).resize((15, 10), Image.Resampling.BILINEAR))
    assert any(np.array_equal(np.asarray(small), resized[y : y + 8, x : x + 8]) for y in range(3) for x in range(8))


@pytest.mark.parametrize("kind", ["tensorflow", "torchvision", "simple"])
@pytest.mark.parametrize("size", SIZES)
def test_any_picture_comes_out_at_the_size_of_the_processor(kind: str, size: tuple[int, int]) -> None:
    transform = Transform(Processor.crop(16), Augment(crop=Crop(kind=kind)))  # type: ignore[arg-type]
    image = Image.new("RGB", size, (9, 9, 9))
    for seed in range(5):
        assert transform(image, np.random.default_rng(seed)).shape == (3, 16, 16)
    np.testing.assert_array_equal(transform(image), Processor.crop(16).array(image))
    grey = Transform(replace(Processor.squash(16), mean=(0.5,), std=(0.5,), fill=(0,)), Augment(crop=Crop(kind=kind)))  # type: ignore[arg-type]
    assert grey(image, np.random.default_rng(0)).shape == (1, 16, 16)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "inception"}, "crop.kind is 'inception'; there is none, tensorflow"),
        ({"area": (0.0, 1.0)}, "crop.area"),
        ({"area": (0.5, 0.4)}, "crop.area"),
        ({"aspect": (0.0, 1.0)}, "crop.aspect"),
        ({"padding": -1}, "crop.padding"),
        ({"short_side": 0}, "crop.short_side"),
        ({"resampling": "cubic"}, "crop.resampling"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Crop(**settings)
    with pytest.raises(ValueError, match="no room"):
        Transform(Processor.squash(16), Augment(crop=Crop(kind="simple", short_side=12, padding=1)))
