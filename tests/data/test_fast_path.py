"""Fast decoding and resizing: the same pixels and errors as the slow path."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import oracle
from PIL import Image

from vitkit.data.processor import Processor
from vitkit.data.processor.resampling import array
from vitkit.images import ImageError, open_image, open_pixels, probe, turbo


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that opens a file with Pillow's decoder only."""

    def opened(data: bytes, **options: Any) -> Image.Image:
        with monkeypatch.context() as patch:
            patch.setattr(turbo, "decode", lambda header: None)
            return open_image(data, **options)

    return opened


def needs_simplejpeg() -> None:
    pytest.importorskip("simplejpeg", reason="the fast decoder is simplejpeg: pip install 'vitkit[fast]'")
    assert turbo.equal_decoder() is not None, "simplejpeg and Pillow decode differently here"


def jpeg(size: tuple[int, int], seed: int = 0, mode: str = "RGB", **options: Any) -> bytes:
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (size[1] // 8 + 2, size[0] // 8 + 2, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


LAYOUTS: dict[str, dict[str, Any]] = {
    **{f"subsampling {name}": {"subsampling": name} for name in ("4:4:4", "4:2:2", "4:2:0")},
    "progressive": {"progressive": True},
    "progressive 4:4:4": {"progressive": True, "subsampling": "4:4:4"},
    "gray": {"mode": "L"},
    "cmyk": {"mode": "CMYK"},
    "quality 30": {"quality": 30},
    "quality 100": {"quality": 100},
    "restarts": {"restart_marker_blocks": 3},
    "stored as RGB": {"keep_rgb": True},
    **{f"orientation {number}": {"exif": exif(number)} for number in range(2, 9)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (67, 43), (500, 333)], ids=str)
def test_a_jpeg_equals_pillow_bit_for_bit(layout: str, size: tuple[int, int], slow: Any) -> None:
    needs_simplejpeg()
    data = jpeg(size, **LAYOUTS[layout])
    if layout != "cmyk":
        assert turbo.decode(probe(data)) is not None, "it was decoded by Pillow"
    np.testing.assert_array_equal(np.asarray(open_image(data)), np.asarray(slow(data)))
    np.testing.assert_array_equal(open_pixels(data), np.asarray(slow(data)))


def outcome(opened: Any, data: bytes, **options: Any) -> Any:
    try:
        return np.asarray(opened(data, **options)).tobytes()
    except ImageError as error:
        return error.code, str(error)


@pytest.mark.parametrize("allow_truncated", [False, True])
def test_a_damaged_jpeg_equals_pillow(allow_truncated: bool, slow: Any) -> None:
    needs_simplejpeg()
    random = np.random.default_rng(1)
    types = set()
    for number in range(60):
        data = bytearray(jpeg((90, 70), number, progressive=bool(number % 3 == 0)))
        kind = number % 4
        if kind == 0:
            data = data[: int(random.integers(100, len(data)))]
        elif kind == 1:
            data = data[:-2]
        else:
            for position in random.integers(200, len(data) - 2, 4):
                data[position] = int(random.integers(0, 256))
        expected = outcome(slow, bytes(data), allow_truncated=allow_truncated)
        for opened in (open_image, open_pixels):
            assert outcome(opened, bytes(data), allow_truncated=allow_truncated) == expected
        types.add(type(expected))
    assert types == {bytes, tuple}, "both images and errors must occur"


def test_a_decoder_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    simplejpeg = pytest.importorskip("simplejpeg", reason="the fast decoder is simplejpeg: pip install 'vitkit[fast]'")
    true_decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda data, color: true_decode(data, color, fastdct=True))
    turbo.equal_decoder.cache_clear()
    try:
        assert turbo.equal_decoder() is None
        assert turbo.decode(probe(jpeg((30, 20)))) is None
    finally:
        turbo.equal_decoder.cache_clear()


def test_real_images_equal_pillow_bit_for_bit(shared: Path, slow: Any) -> None:
    needs_simplejpeg()
    paths = sorted((shared / "data/imagenet_sample").glob("*.JPEG"))[::10]
    for path in paths:
        data = path.read_bytes()
        np.testing.assert_array_equal(np.asarray(open_image(data)), np.asarray(slow(data)))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crops", [False, True], ids=["squash", "crop"])
def test_torch_resampling_equals_the_default_of_transformers(interpolation: str, crops: bool) -> None:
    transformers = oracle("transformers")
    oracle("torchvision")
    settings: dict[str, Any] = {"resample": {"bilinear": 2, "bicubic": 3}[interpolation]}
    if crops:
        settings |= {"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": {"height": 56, "width": 56}}
    else:
        settings |= {"size": {"height": 56, "width": 56}}
    theirs = transformers.ViTImageProcessor(**settings)
    processor = Processor.from_huggingface(theirs.to_dict())
    for seed, size in enumerate([(100, 80), (67, 143), (56, 56), (300, 211), (70, 60)]):
        image = open_image(jpeg(size, seed))
        expected = theirs(image, return_tensors="np").pixel_values[0]
        np.testing.assert_allclose(array(processor, image), expected, atol=1e-6)


def test_torch_resampling_is_close_to_pillow_and_falls_back_to_it(tmp_path: Path) -> None:
    data = jpeg((300, 200))
    for processor in (Processor.squash(56), Processor.crop(56, 0.875)):
        given, expected = array(processor, data), processor.array(data)
        assert np.abs(given - expected).max() * 255 / 2 < 8
        assert np.abs(given - expected).mean() * 255 / 2 < 0.1
    for processor in (
        Processor.squash(56, interpolation="lanczos"),
        Processor.squash(56, mean=(0.5,), std=(0.5,), fill=(0,)),
        Processor(size=(400, 400), resize="none", center_crop="torchvision"),
        Processor(size=(100, 100), resize="longest", center_crop="torchvision", interpolation="bicubic"),
    ):
        np.testing.assert_array_equal(array(processor, data), processor.array(data))
    with pytest.raises(ImageError, match="not an image"):
        array(Processor.squash(56), b"not an image")
