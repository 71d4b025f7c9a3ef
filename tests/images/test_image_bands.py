"""Images with any number of channels: multi-band TIFF files, numpy arrays, and alpha as a channel."""

import io
import itertools
import struct
import tracemalloc
from collections.abc import Callable

import band_files
import numpy as np
import pytest
import torch
from band_files import array_file, tiff
from image_files import good
from PIL import Image

from vitkit.images import Bands, ImageError, Limits, count_bands, open_channels, open_image, to_channels
from vitkit.images.decode import decode_plain
from vitkit.images.depth import floats_to_bytes, integers_to_bytes
from vitkit.images.formats import tiff as tiff_format
from vitkit.images.samples import band_bytes

RANDOM = np.random.default_rng(0)
TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8")


def values(dtype: str, bands: int, height: int = 21, width: int = 37) -> np.ndarray:
    """Random values of every size, whose conversion to 8 bits is not trivial."""
    if dtype[0] == "f":
        return RANDOM.random((height, width, bands)).astype(dtype)
    info = np.iinfo(dtype)
    return RANDOM.integers(info.min, info.max, (height, width, bands), dtype=dtype, endpoint=True)


def expected(pixels: np.ndarray) -> np.ndarray:
    """The documented conversion to 8 bits."""
    if pixels.dtype.kind == "f":
        return floats_to_bytes(pixels, clip=True)
    return integers_to_bytes(pixels.astype(np.int64), 8 * pixels.itemsize - (pixels.dtype.kind == "i"))


@pytest.mark.parametrize("dtype", TYPES)
def test_a_tiff_file_of_every_layout(dtype: str) -> None:
    layouts = itertools.product("<>", (False, True), (0, 16), ((False, 1), (True, 1), (True, 2), (True, 3)))
    for order, planar, tile, (deflate, predictor) in layouts:
        if predictor == 3 and dtype[0] != "f":
            continue  # a predictor of floats
        for bands in (2, 5):
            pixels = values(dtype, bands)
            data = tiff(pixels, order=order, planar=planar, tile=tile, deflate=deflate, predictor=predictor)
            image = open_channels(data, bands)
            assert isinstance(image, Bands)
            assert np.array_equal(np.asarray(image), expected(pixels)), (order, planar, tile, deflate, predictor)


@pytest.mark.parametrize(("mode", "predictor"), [("RGB", 2), ("RGBA", 2), ("L", 2), ("I;16", 2), ("F", 3), ("RGB", 1)])
@pytest.mark.parametrize("compression", ["tiff_adobe_deflate", "tiff_lzw"])
def test_files_of_libtiff_have_the_pixels_that_libtiff_decodes(mode: str, predictor: int, compression: str) -> None:
    base = Image.fromarray(values("u1", 4))
    wide = {"F": np.float32, "I;16": np.uint16}
    image = base.convert(mode) if mode not in wide else Image.fromarray(values("u2", 1)[..., 0].astype(wide[mode]))
    file = io.BytesIO()
    image.save(file, "TIFF", compression=compression, tiffinfo={317: predictor})
    layout = tiff_format.read_bands(file.getvalue(), Limits())
    assert layout is not None
    assert layout.predictor == predictor
    read = np.asarray(Image.open(file))
    wanted = expected(read) if mode != "F" else floats_to_bytes(read, clip=True)
    assert np.array_equal(np.squeeze(band_bytes(layout, None, decode_plain)), wanted)


def test_files_above_the_limit_of_pillow_do_not_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Limits` replaces the limit of Pillow (89 million pixels), which warns and then raises; here it is ten pixels."""
    files = {name: file for name, file in good().items() if name.startswith("tiff/")}
    pixels = values("u2", 5)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for file in files.values():
        assert np.abs(np.asarray(open_image(file.data)).astype(int) - file.pixels).max() <= file.within
    for planar, tile in itertools.product((False, True), (0, 16)):
        data = tiff(pixels, planar=planar, tile=tile, deflate=True, predictor=2)
        assert np.array_equal(np.asarray(open_channels(data, 5)), expected(pixels))


def test_planes_may_be_jpeg_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.asarray(Image.fromarray(values("u1", 4, 5, 7)).resize((40, 32)))

    def jpeg(raw: bytes) -> bytes:
        file = io.BytesIO()
        Image.fromarray(np.frombuffer(raw, np.uint8).reshape(-1, 40)).save(file, "JPEG", quality=95)
        return file.getvalue()

    monkeypatch.setattr(band_files.zlib, "compress", jpeg)
    data = tiff(pixels, planar=True, rows=16, deflate=True, extra={259: (3, (7,))})
    assert np.abs(np.asarray(open_channels(data, 4)).astype(int) - pixels).max() < 10


def test_white_is_zero_is_inverted_and_the_orientation_applied() -> None:
    pixels = values("u1", 5)
    image = open_channels(tiff(pixels, photometric=0, extra={274: (3, (6,))}), 5)
    assert np.array_equal(np.asarray(image), np.rot90(255 - pixels, -1))


def test_signaling_nan_and_the_largest_floats_do_not_warn() -> None:
    pixels = np.full((4, 4, 2), 0x7F800001, np.uint32).view(np.float32)
    pixels[1] = 3e38
    pixels[2] = 0.5
    assert np.isnan(pixels[0]).all()
    for data in (tiff(pixels), array_file(pixels)):
        image = np.asarray(open_channels(data, 2, data_range=1.0))
        assert image[:, 0, 0].tolist() == [0, 255, 128, 0]
    large = np.array([[[1e308, 0.0]]])
    assert np.asarray(open_channels(array_file(large), 2, data_range=1.0)).tolist() == [[[255, 0]]]


def test_data_range_is_the_value_of_white() -> None:
    pixels = RANDOM.integers(0, 12_000, (8, 9, 6), dtype=np.uint16)
    wanted = np.rint(np.clip(pixels * (255 / 10_000), 0, 255))
    for data in (tiff(pixels), array_file(pixels), array_file(np.moveaxis(pixels, -1, 0))):
        assert np.array_equal(np.asarray(open_channels(data, 6, data_range=10_000)), wanted)
    assert np.array_equal(np.asarray(to_channels(pixels, 6, data_range=10_000)), wanted)


@pytest.mark.parametrize("dtype", [*TYPES, "i8", "?"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 12])
def test_an_array_file_of_every_layout(dtype: str, bands: int) -> None:
    pixels = values("u1", bands) > 99 if dtype == "?" else values("i4" if dtype == "i8" else dtype, bands).astype(dtype)
    wanted = pixels * np.uint8(255) if dtype == "?" else expected(pixels if dtype != "i8" else pixels.astype("i4"))
    if dtype == "i8":
        wanted = integers_to_bytes(pixels, 63)
    for array in (
        pixels,
        np.moveaxis(pixels, -1, 0),
        np.asfortranarray(pixels),
        pixels.astype(pixels.dtype.newbyteorder(">")),
    ):
        image = open_channels(array_file(array), bands)
        assert np.array_equal(np.asarray(image), np.squeeze(wanted)), array.shape
    if bands == 1:
        assert np.array_equal(np.asarray(open_channels(array_file(pixels[..., 0]), 1)), wanted[..., 0])


def test_the_band_axis_is_the_last_in_numpy_and_the_first_in_torch() -> None:
    square = values("u1", 5, 5, 5)
    assert np.array_equal(np.asarray(to_channels(square, 5)), square)
    assert np.array_equal(np.asarray(to_channels(torch.from_numpy(square), 5)), np.moveaxis(square, 0, -1))
    assert np.array_equal(np.asarray(to_channels(square, 5, axis="first")), np.moveaxis(square, 0, -1))
    with pytest.raises(ImageError, match=r"shape \(4, 5, 6\); expected 7 channels"):
        to_channels(values("u1", 6, 4, 5), 7)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_alpha_is_a_channel(mode: str) -> None:
    pixels = values("u1", 4)
    image = Image.fromarray(pixels).convert("LA") if mode == "LA" else Image.fromarray(pixels)
    image = image.quantize(9) if mode == "P" else image
    file = io.BytesIO()
    image.save(file, "PNG")
    channels = 2 if mode == "LA" else 4
    wanted = np.asarray(image if mode == "LA" else image.convert("RGBA"))
    assert np.array_equal(np.asarray(open_channels(file, channels)), wanted)
    if mode != "P":
        assert np.array_equal(np.asarray(to_channels(image, channels)), wanted)
    assert np.array_equal(np.asarray(to_channels(Image.open(file), channels)), wanted)


def test_formats_with_an_optional_alpha_are_opaque_without_and_others_are_rejected() -> None:
    image = Image.fromarray(values("u1", 3))
    files = {}
    for name in ("PNG", "JPEG"):
        files[name] = io.BytesIO()
        image.save(files[name], name)
    assert np.array_equal(np.asarray(open_channels(files["PNG"], 4)), np.asarray(image.convert("RGBA")))
    assert np.array_equal(np.asarray(to_channels(Image.open(files["PNG"]), 4)), np.asarray(image.convert("RGBA")))
    for call in (lambda: open_channels(files["JPEG"], 4), lambda: to_channels(image, 4)):
        with pytest.raises(ImageError, match="the image has 3 channels; expected 4"):
            call()
    for channels in (2, 5):
        with pytest.raises(ImageError, match=f"channels; expected {channels}"):
            open_channels(files["PNG"], channels)
    with pytest.raises(ImageError, match="the image has 6 channels; expected 4"):
        open_channels(tiff(values("u1", 6)), 4)


def test_rgb_and_grayscale_are_those_of_open_image() -> None:
    file = io.BytesIO()
    Image.fromarray(values("u1", 3)).save(file, "PNG")
    assert np.array_equal(np.asarray(open_channels(file, 3)), np.asarray(open_image(file)))
    assert np.array_equal(np.asarray(open_channels(file, 1)), np.asarray(open_image(file).convert("L")))


def _npy(header: bytes, data: bytes = b"", version: int = 1) -> bytes:
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(header)) + header + data


GOOD = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%s), }\n"
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "object": (lambda: array_file(np.array([[{}]], dtype=object), allow_pickle=True), "unsupported_format"),
    "strings": (lambda: array_file(np.array([["a"]])), "unsupported_format"),
    "complex": (lambda: array_file(np.zeros((2, 2), complex)), "unsupported_format"),
    "records": (lambda: array_file(np.zeros((2, 2), [("a", "u1")])), "unsupported_format"),
    "one axis": (lambda: array_file(np.zeros(7, np.uint8)), "unsupported_format"),
    "four axes": (lambda: array_file(np.zeros((1, 2, 2, 5), np.uint8)), "unsupported_format"),
    "empty": (lambda: array_file(np.zeros((0, 2, 5), np.uint8)), "corrupt"),
    "cut": (lambda: array_file(np.zeros((9, 9, 5), np.uint8))[:-1], "truncated"),
    "cut header": (lambda: array_file(np.zeros((9, 9, 5), np.uint8))[:40], "truncated"),
    "only the start": (lambda: b"\x93NUMPY", "truncated"),
    "no bracket": (lambda: _npy(b"'descr': '|u1'"), "unsupported_format"),
    "long header": (lambda: _npy(b" " * 20_000), "corrupt"),
    "version": (lambda: _npy(GOOD % b"1, 1, 5", bytes(5), 9), "unsupported_format"),
    "code": (lambda: _npy(b"{'descr': __import__('os').abort(), 'fortran_order': False}"), "unsupported_format"),
    "too large": (lambda: _npy(GOOD % b"9999999, 9999999, 5"), "too_many_pixels"),
    "larger": (lambda: _npy(GOOD % b"10000, 10000, 5"), "too_many_pixels"),
    "huge numbers": (lambda: _npy(GOOD % (b"9" * 400 + b", 5")), "unsupported_format"),
    "huge number": (lambda: _npy(GOOD % (b"9" * 40 + b", 5")), "corrupt"),
    "many axes": (lambda: _npy(GOOD % (b"1, " * 900)), "unsupported_format"),
    "tiff bands": (lambda: tiff(values("u1", 5), extra={277: (3, (999,))}), "unsupported_format"),
    "tiff mixed bits": (lambda: tiff(values("u1", 5), extra={258: (3, (8, 8, 8, 8, 16))}), "unsupported_format"),
    "tiff odd bits": (lambda: tiff(values("u1", 5), extra={258: (3, (7,) * 5)}), "unsupported_format"),
    "tiff kind": (lambda: tiff(values("u1", 5), extra={339: (3, (6,) * 5)}), "unsupported_format"),
    "tiff fax": (lambda: tiff(values("u1", 5), extra={259: (3, (4,))}), "unsupported_format"),
    "tiff jpeg": (lambda: tiff(values("u1", 5), extra={259: (3, (7,))}), "unsupported_format"),
    "tiff size": (lambda: tiff(values("u1", 5), extra={257: (4, (9_000_000,))}), "too_many_pixels"),
    "tiff strips": (lambda: tiff(values("u1", 5), extra={257: (4, (900_000,))}), "corrupt"),
    "tiff cut": (lambda: tiff(values("u1", 5))[:-80], "truncated"),
    "tiff damaged": (lambda: tiff(values("u1", 5), deflate=True).replace(b"\x78\x9c", b"\x00\x00"), "corrupt"),
    "text": (lambda: b"hello, world, this is no image", "not_an_image"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_rejected_without_much_memory(name: str) -> None:
    make, code = BAD[name]
    data = make()
    tracemalloc.start()
    try:
        with pytest.raises(ImageError) as caught:
            open_channels(data, 5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.code == code, str(caught.value)
    assert str(caught.value).isprintable()
    assert peak < 4 << 20


def test_only_bands_in_addition_to_colors_are_counted() -> None:
    assert count_bands(tiff(values("u2", 5))) == 5
    assert count_bands(tiff(values("u1", 4), photometric=2, extra={338: (3, (0,))})) == 4
    for data in (
        tiff(values("u1", 3), photometric=2),
        tiff(values("u1", 4), photometric=2, extra={338: (3, (2,))}),
        tiff(values("u1", 4), photometric=5),
        array_file(values("u1", 5)),
        good()["png/rgba"].data,
    ):
        assert count_bands(data) is None


def test_limits_count_bands() -> None:
    pixels = values("u1", 5, 40, 50)
    for data in (tiff(pixels), array_file(pixels)):
        assert np.array_equal(np.asarray(open_channels(data, 5, limits=Limits(max_pixels=10_000))), pixels)
        with pytest.raises(ImageError) as caught:
            open_channels(data, 5, limits=Limits(max_pixels=9_999))
        assert caught.value.code == "too_many_pixels"
        with pytest.raises(ImageError) as caught:
            open_channels(data, 5, limits=Limits(max_bytes=len(data) - 1))
        assert caught.value.code == "too_large"


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4", "f8"])
def test_memory_is_bounded_by_the_values(dtype: str) -> None:
    pixels = np.zeros((600, 500, 8), dtype)
    for data in (tiff(pixels, deflate=True, predictor=2), tiff(pixels, planar=True, deflate=True), array_file(pixels)):
        tracemalloc.start()
        try:
            open_channels(data, 8)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 3 * len(data) + (4 * pixels.itemsize + 4) * pixels.size
