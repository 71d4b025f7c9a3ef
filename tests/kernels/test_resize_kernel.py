"""The resize kernel against Pillow, bitwise; its errors; and the fallback to Pillow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitkit.data.processor import Processor, fast
from vitkit.kernels import resize

needs_kernels = pytest.mark.needs("resize kernel")
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def random_image(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)


def test_the_installed_pillow_is_supported() -> None:
    """With an unknown order of passes the kernel is not used; the installed Pillow must have a known one."""
    order = fast.rows_before_columns()
    assert order in ("steep", "never") if resize.available() else order is None


@needs_kernels
@settings(max_examples=150, deadline=None)
@given(*(st.integers(1, 90) for _ in range(4)), st.sampled_from(sorted(FILTERS)))
def test_random_sizes_match_pillow(rows: int, columns: int, to_rows: int, to_columns: int, name: str) -> None:
    pixels = random_image(rows, columns)
    expected = np.asarray(Image.fromarray(pixels).resize((to_columns, to_rows), FILTERS[name]))
    result = fast.resize_and_crop(pixels, (to_rows, to_columns), name, "none", (1, 1))
    assert result is not None
    assert np.array_equal(result, expected)


@needs_kernels
@settings(max_examples=60, deadline=None)
@given(st.integers(30, 400), st.integers(30, 400), st.sampled_from(["torchvision", "huggingface"]))
def test_a_crop_of_the_resized_image(rows: int, columns: int, rule: str) -> None:
    pixels = random_image(rows, columns)
    processor = Processor.crop(24, 0.875, center_crop=rule)
    assert np.array_equal(processor.pixels(pixels), np.asarray(processor.image(pixels)))


@needs_kernels
@pytest.mark.parametrize("value", [0, 255])
def test_pixel_values_are_clamped(value: int) -> None:
    pixels = np.full((50, 70, 3), value, np.uint8)
    pixels[::2, ::3] = 255 - value  # edges, at which bicubic filters overshoot
    expected = np.asarray(Image.fromarray(pixels).resize((33, 31), Image.Resampling.BICUBIC))
    assert np.array_equal(fast.resize_and_crop(pixels, (31, 33), "bicubic", "none", (1, 1)), expected)


@needs_kernels
def test_non_contiguous_and_large_images() -> None:
    pixels = random_image(40, 60)[::2, ::-1]
    assert np.array_equal(Processor.squash(16).pixels(pixels), np.asarray(Processor.squash(16).image(pixels)))
    assert fast.resize_and_crop(random_image(1, 9), (1, 100_000_000), "bilinear", "none", (1, 1)) is None


def test_other_filters_and_grayscale_images_use_pillow() -> None:
    pixels = random_image(40, 60)
    for name in ("nearest", "lanczos", "box", "hamming"):
        processor = Processor.squash(16, interpolation=name)
        assert np.array_equal(processor.pixels(pixels), np.asarray(processor.image(pixels)))
    gray = Processor.squash(16, mean=(0.5,), std=(0.5,))
    assert np.array_equal(gray.pixels(pixels), np.asarray(gray.image(pixels)))


def test_a_crop_larger_than_the_image_is_padded() -> None:
    processor = Processor(size=(32, 32), resize="none", center_crop="torchvision", fill=(1, 2, 3))
    pixels = random_image(20, 40)
    assert np.array_equal(processor.pixels(pixels), np.asarray(processor.image(pixels)))


@needs_kernels
def test_unsupported_inputs_are_rejected() -> None:
    good = random_image(8, 9)
    calls = [
        (good[..., :2], (4, 4), (0, 0, 4, 4)),
        (good.astype(np.float32), (4, 4), (0, 0, 4, 4)),
        (good[:0], (4, 4), (0, 0, 4, 4)),
        (good, (4, 4), (0, 0, 5, 4)),
        (good, (4, 4), (-1, 0, 4, 4)),
        (good, (4, 4), (0, 3, 4, 2)),
        (good, (4, 4), (0, 0, 0, 4)),
    ]
    for pixels, to, window in calls:
        with pytest.raises(ValueError, match="the resize kernel needs uint8 RGB pixels"):
            resize.resize(pixels, to, window, cubic=True, rows_first=False)


def test_a_pillow_with_another_result_disables_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = random_image(40, 60)
    expected = np.asarray(Processor.squash(16).image(pixels))
    original = Image.Image.resize

    def other(self: Image.Image, *args: object, **kwargs: object) -> Image.Image:
        return original(self, *args, **kwargs).point(lambda value: value ^ 1)  # type: ignore[arg-type]

    fast.rows_before_columns.cache_clear()
    monkeypatch.setattr(Image.Image, "resize", other)
    try:
        assert fast.rows_before_columns() is None
        assert np.array_equal(Processor.squash(16).pixels(pixels), expected ^ 1)
    finally:
        fast.rows_before_columns.cache_clear()
