"""The compiled resize against Pillow, bit for bit; what is refused; and the way around it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitkit.data.processor import Processor, fast
from vitkit.kernels import resize

needs_kernels = pytest.mark.needs("resize kernel")
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def picture(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)


def test_the_usual_pillow_is_understood() -> None:
    """A Pillow whose order of passes is not known would cost the fast way, not the pixels; here it must not."""
    found = fast.rows_before_columns()
    assert found in ("steep", "never") if resize.available() else found is None


@needs_kernels
@settings(max_examples=150, deadline=None)
@given(*(st.integers(1, 90) for _ in range(4)), st.sampled_from(sorted(FILTERS)))
def test_any_size_to_any_size(rows: int, columns: int, to_rows: int, to_columns: int, name: str) -> None:
    pixels = picture(rows, columns)
    wanted = np.asarray(Image.fromarray(pixels).resize((to_columns, to_rows), FILTERS[name]))
    found = fast.resize_and_crop(pixels, (to_rows, to_columns), name, "none", (1, 1))
    assert found is not None
    assert np.array_equal(found, wanted)


@needs_kernels
@settings(max_examples=60, deadline=None)
@given(st.integers(30, 400), st.integers(30, 400), st.sampled_from(["torchvision", "huggingface"]))
def test_a_crop_of_the_resized_picture(rows: int, columns: int, rule: str) -> None:
    pixels = picture(rows, columns)
    processor = Processor.crop(24, 0.875, center_crop=rule)
    assert np.array_equal(processor.pixels(pixels), np.asarray(processor.image(pixels)))


@needs_kernels
@pytest.mark.parametrize("value", [0, 255])
def test_the_ends_stay_the_ends(value: int) -> None:
    pixels = np.full((50, 70, 3), value, np.uint8)
    pixels[::2, ::3] = 255 - value  # edges, at which bicubic weights go beyond
    wanted = np.asarray(Image.fromarray(pixels).resize((33, 31), Image.Resampling.BICUBIC))
    assert np.array_equal(fast.resize_and_crop(pixels, (31, 33), "bicubic", "none", (1, 1)), wanted)


@needs_kernels
def test_what_is_not_dense_and_what_is_large() -> None:
    pixels = picture(40, 60)[::2, ::-1]
    assert np.array_equal(Processor.squash(16).pixels(pixels), np.asarray(Processor.squash(16).image(pixels)))
    assert fast.resize_and_crop(picture(1, 9), (1, 100_000_000), "bilinear", "none", (1, 1)) is None


def test_other_filters_and_grey_pictures_are_pillows() -> None:
    pixels = picture(40, 60)
    for name in ("nearest", "lanczos", "box", "hamming"):
        processor = Processor.squash(16, interpolation=name)
        assert np.array_equal(processor.pixels(pixels), np.asarray(processor.image(pixels)))
    grey = Processor.squash(16, mean=(0.5,), std=(0.5,))
    assert np.array_equal(grey.pixels(pixels), np.asarray(grey.image(pixels)))


def test_a_crop_that_reaches_outside_is_padded() -> None:
    processor = Processor(size=(32, 32), resize="none", center_crop="torchvision", fill=(1, 2, 3))
    pixels = picture(20, 40)
    assert np.array_equal(processor.pixels(pixels), np.asarray(processor.image(pixels)))


@needs_kernels
def test_what_it_does_not_take_is_refused() -> None:
    good = picture(8, 9)
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
        with pytest.raises(ValueError, match="resize takes a window"):
            resize.resize(pixels, to, window, cubic=True, rows_first=False)


def test_a_pillow_that_resizes_otherwise_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = picture(40, 60)
    wanted = np.asarray(Processor.squash(16).image(pixels))
    whole = Image.Image.resize

    def other(self: Image.Image, *given: object, **named: object) -> Image.Image:
        return whole(self, *given, **named).point(lambda level: level ^ 1)  # type: ignore[arg-type]

    fast.rows_before_columns.cache_clear()
    monkeypatch.setattr(Image.Image, "resize", other)
    try:
        assert fast.rows_before_columns() is None
        assert np.array_equal(Processor.squash(16).pixels(pixels), wanted ^ 1)
    finally:
        fast.rows_before_columns.cache_clear()
