"""Images in memory: types, shapes, ranges and errors."""

import io
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import composite, encode, exif, good, jpeg, png, scene, stored, tiff, wide_profile
from PIL import Image

from vitkit.data.processor import Processor
from vitkit.images import ImageError, find_channels, open_image, to_rgb


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


def test_shapes() -> None:
    rgb = scene()
    luma = rgb[..., 0]
    alpha = np.full((*luma.shape, 1), 100, np.uint8)
    three = np.repeat(luma[..., None], 3, -1)
    for given_array, expected in (
        (rgb, rgb),
        (luma, three),
        (luma[..., None], three),
        (np.concatenate([rgb, alpha], -1), composite(rgb, alpha[..., 0])),
        (np.concatenate([luma[..., None], alpha], -1), composite(three, alpha[..., 0])),
    ):
        assert np.abs(pixels(to_rgb(given_array)).astype(int) - expected).max() <= 1
        if given_array.ndim == 3:
            first = given_array.transpose(2, 0, 1)
            for array in (first, torch.from_numpy(first.copy()), torch.from_numpy(given_array.copy())):
                assert np.abs(pixels(to_rgb(array)).astype(int) - expected).max() <= 1


@settings(max_examples=100, deadline=None)
@given(height=st.integers(1, 8), width=st.integers(1, 8), channels=st.sampled_from([1, 3, 4]))
def test_channels_of_small_images(height: int, width: int, channels: int) -> None:
    """Sizes from 1 x 1 to 8 x 8, where channel detection is ambiguous."""
    last = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    first = np.ascontiguousarray(last.transpose(2, 0, 1))
    assert to_rgb(last).size == to_rgb(last, channels="last").size == (width, height)
    assert to_rgb(torch.from_numpy(first)).size == to_rgb(first, channels="first").size == (width, height)
    assert np.array_equal(pixels(to_rgb(torch.from_numpy(first))), pixels(to_rgb(last)))
    assert np.array_equal(pixels(to_rgb(first, channels="first")), pixels(to_rgb(last, channels="last")))


def test_find_channels_for_ambiguous_shapes() -> None:
    assert find_channels((3, 40, 3), None, False) == "last"
    assert find_channels((3, 40, 3), None, True) == "first"
    assert find_channels((2, 40, 3), None, True) == "last"
    assert find_channels((2, 40, 50), None, False) == "first"
    assert find_channels((4, 40, 50), None, False) == "first"


def test_types() -> None:
    luma = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for array in (
        luma.astype(np.int16),
        luma.astype(np.int64),
        luma.astype(np.uint32),
        luma.astype(np.uint16) * 256 + 77,
        luma.astype(np.int32) * 257,
        luma / 255,
        (luma / 255).astype(np.float32),
        luma.astype(np.float32),
        luma.astype(np.float64) * 257,
        torch.from_numpy(luma.copy()).float() / 255,
        torch.from_numpy(luma.copy()).to(torch.int32),
        torch.from_numpy(luma.copy()).double() / 255,
        (torch.from_numpy(luma.copy()).float() / 255).requires_grad_(),
        Image.fromarray(luma),
        Image.fromarray(luma.astype(np.uint16) * 257),
        Image.fromarray(luma.astype(np.int32)),
        Image.fromarray(luma.astype(np.int32) * 257),
        Image.fromarray(luma.astype(np.float32)),
        Image.fromarray((luma / 255).astype(np.float32)),
    ):
        assert np.array_equal(pixels(to_rgb(array))[..., 0], luma), array
    for half in (torch.float16, torch.bfloat16):
        near = pixels(to_rgb(torch.from_numpy(luma.copy()).to(half) / 255))[..., 0]
        assert np.abs(near.astype(int) - luma).max() <= 1
    bits = luma > 99
    for array in (bits, torch.from_numpy(bits), Image.fromarray(bits)):
        assert np.array_equal(pixels(to_rgb(array))[..., 0], bits * 255)
    assert np.array_equal(pixels(to_rgb(np.asfortranarray(scene())[::-1, ::2])), scene()[::-1, ::2])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((6, 50, 50)), r"\(6, 50, 50\).*1, 2, 3 or 4"),
        (np.zeros((50, 50, 5)), r"\(50, 50, 5\)"),
        (np.zeros(9), r"\(9,\)"),
        (np.zeros((1, 3, 5, 5)), r"\(1, 3, 5, 5\)"),
        (np.zeros((0, 5, 3)), "with no empty axis"),
        (np.full((5, 5), -1.5), "normalized"),
        (np.full((5, 5), 1e6), "normalized"),
        (np.full((5, 5), np.nan), "NaN"),
        (np.full((5, 5), np.inf), "NaN or infinite"),
        (np.full((5, 5), -1), "from 0 to 65535"),
        (np.full((5, 5), 70_000), "from 0 to 65535"),
        (np.zeros((5, 5), complex), "complex"),
        (np.array([["a"]]), "got <U1"),
        (np.zeros((5, 5), object), "object"),
        (torch.linspace(-2, 2, 243).reshape(3, 9, 9), "normalized"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_invalid_arrays_raise(array: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_rgb(array)


def test_invalid_arguments_raise() -> None:
    with pytest.raises(ValueError, match="channels"):
        to_rgb(scene(), channels="middle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"24 channels on the first axis"):
        to_rgb(scene(), channels="first")
    with pytest.raises(TypeError, match="NoneType"):
        to_rgb(None)
    with pytest.raises(TypeError, match="list"):
        to_rgb([[1, 2]])


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F"]
)
def test_every_mode_of_pillow(mode: str) -> None:
    image = Image.fromarray(scene())
    if mode in ("PA", "P"):
        image = image.quantize(200).convert(mode)
    elif mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    else:
        image = image.convert(mode)
    expected = {"1": "1", "I": "L", "F": "L", "L": "L", "LA": "L", "La": "L"}.get(mode, "RGB")
    reference = np.asarray(Image.fromarray(scene()).convert(expected).convert("RGB")).astype(int)
    distance = np.abs(pixels(to_rgb(image)).astype(int) - reference)
    assert distance.max() <= {"P": 80, "PA": 80, "CMYK": 1, "YCbCr": 3, "HSV": 12}.get(mode, 1)
    assert distance.mean() < 6


def test_transparency_of_pil_images() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in good():
            if name.startswith(("png/gray", "png/rgb", "png/palette", "gif/")) and "16" not in name:
                opened = Image.open(io.BytesIO(good()[name].data))
                ours, file = pixels(to_rgb(opened)).astype(int), good()[name]
                if name not in ("png/gray_2_key", "png/gray_4_key"):  # Pillow does not scale these keys
                    assert np.abs(ours - file.pixels).max() <= max(file.within, 1), name


def test_metadata_applies_only_to_the_result_of_image_open() -> None:
    rgb = scene()
    data = encode(Image.fromarray(stored(rgb, 6)), "WEBP", exif=b"Exif\0\0" + exif(6), lossless=True)
    assert np.array_equal(pixels(to_rgb(Image.open(io.BytesIO(data)))), pixels(open_image(data)))
    derived = Image.open(io.BytesIO(data)).transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(pixels(to_rgb(derived)), rgb)
    data = jpeg(icc_profile=wide_profile())
    opened = Image.open(io.BytesIO(data))
    assert np.array_equal(pixels(to_rgb(opened)), pixels(open_image(data)))
    assert np.array_equal(pixels(to_rgb(opened, profile="ignore")), np.asarray(opened))
    assert np.array_equal(pixels(to_rgb(opened.convert("RGB").copy())), np.asarray(opened))
    plain = Image.fromarray(rgb)
    assert to_rgb(plain) is plain


def test_a_corrupt_lazy_image_raises_image_error() -> None:
    opened = Image.open(io.BytesIO(jpeg()[:-300]))
    with pytest.raises(ImageError) as caught:
        to_rgb(opened)
    assert "0x" not in str(caught.value)
    with pytest.raises(ValueError, match="no pixels"):
        to_rgb(Image.new("RGB", (0, 4)))


def test_the_background_is_visible() -> None:
    array = np.zeros((4, 4, 4), np.uint8)
    assert pixels(to_rgb(array, background=(9, 8, 7)))[0, 0].tolist() == [9, 8, 7]


def test_images_need_no_torch() -> None:
    code = "import sys; from vitkit.images import open_image; open_image(sys.stdin.buffer.read())"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], input=png(scene(), 8, 2), check=True, timeout=60)


def test_data_range_is_the_value_of_white() -> None:
    dark = np.zeros((4, 4), np.float32)
    dark[0] = 1
    assert np.array_equal(pixels(to_rgb(dark, data_range=255))[..., 0], dark)
    assert np.array_equal(pixels(to_rgb(dark * 0.5, data_range=1))[..., 0], np.rint(dark * 127.5))
    assert np.array_equal(pixels(to_rgb(Image.fromarray(dark), data_range=255))[..., 0], dark)
    processor = Processor.squash(4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), rescale=1.0)
    for image in (dark, torch.from_numpy(dark), np.stack([dark[..., None]] * 2)):
        assert processor(image, data_range=255).max() == 1
    assert np.array_equal(np.asarray(open_image(tiff(dark[..., None], t339=3), data_range=255))[..., 0], dark)
    assert np.asarray(open_image(tiff(dark[..., None], t339=3))).max() == 255
    with pytest.raises(ValueError, match=r"values in \[0, 1\], got 0 to 2"):
        to_rgb(dark * 2, data_range=1)
    for wrong in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match="data_range must be a positive number"):
            to_rgb(dark, data_range=wrong)


def test_an_ambiguous_range_warns_once() -> None:
    from vitkit.images import depth

    mask = np.eye(8, dtype=np.float32)
    depth._warn_of_range.cache_clear()
    with pytest.warns(UserWarning, match="pass data_range=255"):
        assert pixels(to_rgb(mask)).max() == 255
    depth._warn_of_range.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            to_rgb(mask)
        # Not ambiguous: constant images, other values, a given range.
        depth._warn_of_range.cache_clear()
        for image in (mask * 0, mask * 0 + 1, mask * 0.5, mask * 255):
            to_rgb(image)
        to_rgb(mask, data_range=1)
    assert len(caught) == 1


def test_nan_of_any_kind_in_a_file_becomes_black_without_a_warning() -> None:
    """Casting a signaling NaN to another type raises a warning of numpy."""
    bits = np.array([[0x7F800001, 0x7FC00000, 0x7F800000, 0xFF800000, 0x3F800000]], np.uint32)
    data = io.BytesIO()
    Image.fromarray(bits.view(np.float32)).save(data, "TIFF")
    assert np.asarray(open_image(data.getvalue()))[0, :, 0].tolist() == [0, 0, 0, 0, 255]
