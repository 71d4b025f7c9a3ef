"""RandAugment: operations against the formulas of the original, pixel by pixel."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from vitkit.data.augment.randaugment import OPERATIONS, RandAugment, contrast_to_mean, randaugment

MAGNITUDES = [0.0, 2.0, 5.0, 10.0, 15.0, 20.0]


def make_pixels(seed: int = 0, rows: int = 40, columns: int = 56) -> np.ndarray:
    """Return smooth shapes with noise that cover the range of pixel values."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((columns, rows), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + random.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


class Fixed:
    """Random generator with fixed numbers."""

    def __init__(self, *integers: int, uniform: float = 0.0):
        self.numbers, self.uniform = list(integers), uniform

    def random(self) -> float:
        return self.uniform

    def integers(self, high: int) -> int:
        return self.numbers.pop(0)


def apply(name: str, pixels: np.ndarray, magnitude: float, random: object | None = None) -> np.ndarray:
    out = OPERATIONS[name](pixels, magnitude, random or Fixed())  # type: ignore[arg-type]
    assert out.dtype == np.uint8
    assert out.shape == pixels.shape
    return out


def test_the_operations_are_the_sixteen_of_the_original() -> None:
    names = ["AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "Color", "Contrast"]
    names += ["Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout", "SolarizeAdd"]
    assert sorted(OPERATIONS) == sorted(names)


def test_operations_without_magnitude_equal_pillow() -> None:
    pixels = make_pixels() // 2 + 30
    image = Image.fromarray(pixels)
    for magnitude in MAGNITUDES:
        np.testing.assert_array_equal(apply("Equalize", pixels, magnitude), np.asarray(ImageOps.equalize(image)))
        np.testing.assert_array_equal(apply("Invert", pixels, magnitude), np.asarray(ImageOps.invert(image)))
        stretched = np.asarray(ImageOps.autocontrast(image)).astype(int)
        assert np.abs(apply("AutoContrast", pixels, magnitude) - stretched).max() <= 1
    flat = np.full((4, 5, 3), 77, np.uint8)
    for name in ("AutoContrast", "Equalize"):
        np.testing.assert_array_equal(apply(name, flat, 10), flat)


@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_posterize_and_solarize(magnitude: float) -> None:
    pixels = make_pixels()
    bits = {0: 0, 2: 0, 5: 2, 10: 4, 15: 6, 20: 8}[int(magnitude)]
    expected = pixels.astype(int) // 2 ** (8 - bits) * 2 ** (8 - bits)
    np.testing.assert_array_equal(apply("Posterize", pixels, magnitude), expected)
    threshold = {0: 0, 2: 51, 5: 128, 10: 0, 15: 128, 20: 0}[int(magnitude)]
    expected = np.where(pixels.astype(int) < threshold, pixels, 255 - pixels.astype(int))
    np.testing.assert_array_equal(apply("Solarize", pixels, magnitude), expected)
    added = {0: 0, 2: 22, 5: 55, 10: 110, 15: 165, 20: 220}[int(magnitude)]
    expected = np.where(pixels < 128, np.minimum(255, pixels.astype(int) + added), pixels)
    np.testing.assert_array_equal(apply("SolarizeAdd", pixels, magnitude), expected)


def smoothed(pixels: np.ndarray) -> np.ndarray:
    """The 3 x 3 kernel 1, 1, 1; 1, 5, 1; 1, 1, 1 over 13 by a naive loop; the border is unchanged."""
    out = pixels.copy()
    for row in range(1, pixels.shape[0] - 1):
        for column in range(1, pixels.shape[1] - 1):
            block = pixels[row - 1 : row + 2, column - 1 : column + 2].astype(int).sum(axis=(0, 1))
            out[row, column] = (block + 4 * pixels[row, column].astype(int)) // 13
    return out


def gray_values(pixels: np.ndarray) -> np.ndarray:
    return np.repeat((pixels @ [0.2989, 0.587, 0.114])[..., None], 3, axis=2)


DEGENERATE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Color": gray_values,
    "Brightness": np.zeros_like,
    "Contrast": lambda pixels: np.full(pixels.shape, pixels.shape[0] * pixels.shape[1] // 256),
    "Sharpness": smoothed,
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_enhancements_extrapolate_by_the_factor(name: str, magnitude: float) -> None:
    pixels = make_pixels(1)
    factor = {0: 0.1, 2: 0.46, 5: 1.0, 10: 1.9, 15: 2.8, 20: 3.7}[int(magnitude)]
    start = DEGENERATE[name](pixels).astype(np.float64)
    expected = np.clip(start + factor * (pixels - start), 0, 255)
    # Values are truncated to integers, also the gray values.
    assert np.abs(apply(name, pixels, magnitude) - expected + 0.5).max() <= 0.5 + (1e-3 if name != "Color" else 3.8)
    if magnitude == 5:
        np.testing.assert_array_equal(apply(name, pixels, magnitude), pixels)


def test_contrast_with_and_without_the_defect() -> None:
    dark = np.full((224, 224, 3), 20, np.uint8)
    # At 224 pixels the "mean" is 196: 196 + 1.9 (20 - 196) < 0.
    assert apply("Contrast", dark, 10).max() == 0
    assert apply("Contrast", dark, 0).min() == int(196 + 0.1 * (20 - 196))
    assert abs(int(contrast_to_mean(dark, 10, np.random.default_rng(0)).mean()) - 20) <= 1
    large = np.full((300, 300, 3), 20, np.uint8)
    assert apply("Contrast", large, 0).max() == int(255 + 0.1 * (20 - 255))  # clipped to white
    image = Image.fromarray(make_pixels(rows=224, columns=224))
    original, fixed = (
        [np.asarray(randaugment(image, config, np.random.default_rng(seed))) for seed in range(60)]
        for config in (RandAugment(layers=1), RandAugment(layers=1, contrast="mean"))
    )
    differ = sum(not np.array_equal(*pair) for pair in zip(original, fixed, strict=True))
    assert 0 < differ < 15  # Contrast alone


def moved(pixels: np.ndarray, where: Callable[[int, int], tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Move every pixel in a naive loop; return also where the source is within rounding of two pixels."""
    out, ambiguous = np.full_like(pixels, 128), np.zeros(pixels.shape[:2], bool)
    for y in range(pixels.shape[0]):
        for x in range(pixels.shape[1]):
            from_x, from_y = where(x, y)
            ambiguous[y, x] = min(abs(from_x % 1 - 0.5), abs(from_y % 1 - 0.5)) < 1e-3
            column, row = math.floor(from_x + 0.5), math.floor(from_y + 0.5)
            if 0 <= row < pixels.shape[0] and 0 <= column < pixels.shape[1]:
                out[y, x] = pixels[row, column]
    return out, ambiguous


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("magnitude", [0.0, 3.0, 10.0, 15.0])
@pytest.mark.parametrize("name", ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"])
def test_geometric_operations_round_to_nearest_and_fill_with_gray(name: str, magnitude: float, sign: int) -> None:
    pixels, strength = make_pixels(2), sign * magnitude / 10
    angle = math.radians(30 * strength)
    middle_x, middle_y = (pixels.shape[1] - 1) / 2, (pixels.shape[0] - 1) / 2

    def rotated(x: int, y: int) -> tuple[float, float]:
        across, down = x - middle_x, y - middle_y
        return (
            middle_x + math.cos(angle) * across - math.sin(angle) * down,
            middle_y + math.sin(angle) * across + math.cos(angle) * down,
        )

    where = {
        "ShearX": lambda x, y: (x + 0.3 * strength * y, y),
        "ShearY": lambda x, y: (x, y + 0.3 * strength * x),
        "TranslateX": lambda x, y: (x + 100 * strength, y),
        "TranslateY": lambda x, y: (x, y + 100 * strength),
        "Rotate": rotated,
    }[name]
    expected, ambiguous = moved(pixels, where)
    out = apply(name, pixels, magnitude, Fixed(uniform=0.1 if sign > 0 else 0.9))
    assert ambiguous.mean() < 0.15
    np.testing.assert_array_equal(out[~ambiguous], expected[~ambiguous])
    if magnitude == 0:
        np.testing.assert_array_equal(out, pixels)


def test_cutout_is_a_gray_square_clipped_at_the_border() -> None:
    pixels = make_pixels()
    out = apply("Cutout", pixels, 2, Fixed(5, 50))  # half a side of 8 around row 5, column 50
    inside = np.zeros(pixels.shape[:2], bool)
    inside[0:13, 42:56] = True
    assert (out[inside] == 128).all()
    np.testing.assert_array_equal(out[~inside], pixels[~inside])
    np.testing.assert_array_equal(apply("Cutout", pixels, 0, Fixed(5, 50)), pixels)


def test_operations_are_sampled_uniformly(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = dict.fromkeys(OPERATIONS, 0)

    def counting(name: str) -> Callable[..., np.ndarray]:
        def operation(pixels: np.ndarray, magnitude: float, random: np.random.Generator) -> np.ndarray:
            assert magnitude == 15.0
            counts[name] += 1
            return pixels

        return operation

    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, counting(name))
    random = np.random.default_rng(0)
    image = Image.fromarray(make_pixels())
    for _ in range(1600):
        randaugment(image, RandAugment(layers=2, magnitude=15.0), random)
    assert sum(counts.values()) == 3200
    assert all(140 < count < 260 for count in counts.values())  # 200 expected, 4 standard deviations
    assert randaugment(image, RandAugment(), random).tobytes() == image.tobytes()


def test_invalid_settings_raise() -> None:
    for settings in ({"layers": -1}, {"magnitude": -1.0}, {"magnitude": 1000.0}):
        with pytest.raises(ValueError, match="the magnitude between 0 and 100"):
            RandAugment(**settings)
