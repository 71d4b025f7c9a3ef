"""Random crops: sampling against naive loops and the original libraries, and resizing."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import oracle
from PIL import Image

from vitkit.data.augment import Augment, Transform
from vitkit.data.augment import crop as crop_module
from vitkit.data.augment.crop import Crop, crop_and_resize, tensorflow_box, torchvision_box
from vitkit.data.processor import Processor

SIZES = [(224, 224), (375, 500), (500, 375), (32, 32), (40, 400), (400, 40), (7, 5), (1, 1)]


class TorchNumbers:
    """Global generator of torch with the interface of numpy, so that torchvision samples the same numbers."""

    def uniform(self, low: float, high: float) -> float:
        return torch.empty(1).uniform_(low, high).item()

    def integers(self, high: int) -> int:
        return int(torch.randint(0, high, size=(1,)).item())


@pytest.mark.parametrize("size", SIZES)
def test_torchvision_box_equals_torchvision(size: tuple[int, int]) -> None:
    transforms = oracle("torchvision.transforms")
    for scale, ratio in (((0.08, 1.0), (3 / 4, 4 / 3)), ((0.3, 0.5), (0.9, 1.1))):
        torch.manual_seed(0)
        image = torch.empty(3, *size)
        theirs = [transforms.RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(200)]
        torch.manual_seed(0)
        ours = [torchvision_box(size, scale, ratio, TorchNumbers()) for _ in range(200)]  # type: ignore[arg-type]
        # torchvision computes logarithms in float32, so rounding differs once in thousands.
        assert sum(a != b for a, b in zip(ours, theirs, strict=True)) <= 2


class Recorded:
    """Random generator that records its numbers."""

    def __init__(self, seed: int):
        self.random, self.sampled = np.random.default_rng(seed), []

    def uniform(self, low: float, high: float) -> float:
        self.sampled.append(self.random.uniform(low, high))
        return self.sampled[-1]

    def integers(self, low: int, high: int | None = None) -> int:
        self.sampled.append(int(self.random.integers(low, high)))
        return self.sampled[-1]


def naive_box(size: tuple[int, int], area: tuple[float, float], sampled: list[float]) -> tuple[int, int, int, int]:
    """Naive sampling in float64 that tries every height."""
    rows, columns = size
    numbers = iter(sampled)
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
def test_tensorflow_box_equals_a_naive_loop(size: tuple[int, int]) -> None:
    differ = 0
    for seed in range(300):
        random, area = Recorded(seed), ((0.05, 1.0), (0.3, 0.6))[seed % 2]
        box = tensorflow_box(size, area, (0.75, 1.33), random)  # type: ignore[arg-type]
        try:
            differ += box != naive_box(size, area, random.sampled)
        except (StopIteration, AssertionError):
            differ += 1
        top, left, height, width = box
        assert 0 <= top <= size[0] - height
        assert 0 <= left <= size[1] - width
        # Offsets are smaller than the free space.
        assert top < size[0] - height or top == 0
    # The original rounds in float32, so a half is sometimes rounded differently.
    assert differ <= 3


def test_area_distributions_of_both_samplings() -> None:
    random = np.random.default_rng(0)
    boxes = {
        name: np.array([sample((400, 400), (0.05, 1.0), (0.75, 1.33), random) for _ in range(4000)])
        for name, sample in (("tensorflow", tensorflow_box), ("torchvision", torchvision_box))
    }
    area = {name: each[:, 2] * each[:, 3] / 160_000 for name, each in boxes.items()}
    # A uniform height of 89 to about 390 gives a median area of 36%; a uniform area gives 46%, because the largest
    # crops rarely fit.
    assert 0.31 < np.median(area["tensorflow"]) < 0.40
    assert 0.42 < np.median(area["torchvision"]) < 0.52
    assert all(0.049 < each.min() < 0.08 and each.max() > 0.85 for each in area.values())
    ratio = boxes["tensorflow"][:, 3] / boxes["tensorflow"][:, 2]
    assert abs(np.mean(ratio) - 1.04) < 0.02
    assert max(Counter(boxes["tensorflow"][:, 2].tolist()).values()) < 60  # heights are spread evenly


def test_tensorflow_resize_is_aliased_bilinear_truncated_to_integers() -> None:
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


def test_a_simple_crop_is_a_window_of_the_padded_image() -> None:
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
def test_any_image_is_cropped_to_the_size_of_the_processor(kind: str, size: tuple[int, int]) -> None:
    transform = Transform(Processor.crop(16), Augment(crop=Crop(kind=kind)))  # type: ignore[arg-type]
    image = Image.new("RGB", size, (9, 9, 9))
    for seed in range(5):
        assert transform(image, np.random.default_rng(seed)).shape == (3, 16, 16)
    np.testing.assert_array_equal(transform(image), Processor.crop(16).array(image))
    gray = Transform(replace(Processor.squash(16), mean=(0.5,), std=(0.5,), fill=(0,)), Augment(crop=Crop(kind=kind)))  # type: ignore[arg-type]
    assert gray(image, np.random.default_rng(0)).shape == (1, 16, 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "inception"}, "crop.kind is 'inception'; expected one of none, tensorflow"),
        ({"area": (0.0, 1.0)}, "crop.area"),
        ({"area": (0.5, 0.4)}, "crop.area"),
        ({"aspect": (0.0, 1.0)}, "crop.aspect"),
        ({"padding": -1}, "crop.padding"),
        ({"short_side": 0}, "crop.short_side"),
        ({"resampling": "cubic"}, "crop.resampling"),
    ],
)
def test_invalid_settings_raise(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Crop(**settings)
    with pytest.raises(ValueError, match="too small for the input size"):
        Transform(Processor.squash(16), Augment(crop=Crop(kind="simple", short_side=12, padding=1)))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_large_boxes_are_cut_without_a_warning_of_pillow(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)).convert(mode)
    settings = Crop(kind="torchvision", area=(0.6, 1.0))
    processor = Processor.squash(16)
    expected = [crop_and_resize(image, settings, processor, np.random.default_rng(seed)) for seed in range(5)]
    monkeypatch.setattr(crop_module, "LARGE", 10)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for seed in range(5):
        given = crop_and_resize(image, settings, processor, np.random.default_rng(seed))
        np.testing.assert_array_equal(np.asarray(given), np.asarray(expected[seed]))
