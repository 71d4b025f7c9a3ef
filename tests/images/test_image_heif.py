"""HEIF (HEIC) files: the extra `heif` is imported when it is needed, and its absence is explained."""

import io
import struct
import sys

import numpy as np
import pytest
from image_files import exif, scene, stored
from PIL import Image

from vitkit.images import ImageError, Limits, open_image, probe
from vitkit.images.formats import avif


def box(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), name) + body


def test_without_a_decoder_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"run pip install 'vitkit\[heif\]'") as caught:
        probe(box(b"ftyp", b"heic\0\0\0\0mif1heic") + bytes(50))
    assert caught.value.code == "unsupported_format"


def test_the_size_follows_crop_and_rotation_of_the_primary_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Built by hand, so that it needs no decoder: a thumbnail, and a primary image with crop and rotation."""
    monkeypatch.setattr(avif, "heif_decoder", lambda: object)

    def ispe(width: int, height: int) -> bytes:
        return box(b"ispe", bytes(4), struct.pack(">II", width, height))

    clap = box(b"clap", struct.pack(">IIIIIIII", 4000, 1, 6000, 2, 0, 1, 0, 1))
    properties = box(b"ipco", ispe(9000, 9000), ispe(4032, 3024), clap, box(b"irot", b"\1"))
    association = box(b"ipma", bytes(4), struct.pack(">IHBBHBBBB", 2, 1, 1, 1, 2, 3, 2, 0x83, 0x84))
    meta = box(b"meta", bytes(4), box(b"pitm", bytes(4), b"\0\2"), box(b"iprp", properties, association))
    locations = box(b"meta", bytes(4), box(b"iloc", bytes(4), b"\x44\0\0\0"))
    data = box(b"ftyp", b"heic\0\0\0\0mif1heic") + meta + locations
    header = probe(data, Limits(max_pixels=81_000_000))
    assert (header.format, header.width, header.height) == ("HEIF", 3000, 4000)
    with pytest.raises(ImageError) as caught:
        probe(data, Limits(max_pixels=80_999_999))  # every size in the file is checked
    assert caught.value.code == "too_many_pixels"


@pytest.fixture
def heic(monkeypatch: pytest.MonkeyPatch):
    """Return an encoder of pixels with an orientation; the plug-in is not registered afterwards."""
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs the extra: pip install 'vitkit[heif]'")

    def encode(pixels: np.ndarray, orientation: int = 1, **options: object) -> bytes:
        buffer = io.BytesIO()
        with monkeypatch.context() as patch:
            for name in ("OPEN", "SAVE", "SAVE_ALL", "MIME", "EXTENSION"):
                patch.setattr(Image, name, dict(getattr(Image, name)))
            patch.setattr(Image, "ID", list(Image.ID))
            pillow_heif.register_heif_opener()
            block = b"Exif\0\0" + exif(orientation)
            Image.fromarray(pixels).save(buffer, "HEIF", quality=95, exif=block, **options)
        return buffer.getvalue()

    return encode


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations(heic, orientation: int) -> None:
    rgb = scene(96, 160)
    image = np.asarray(open_image(heic(stored(rgb, orientation), orientation)))
    assert image.shape == rgb.shape
    assert np.abs(image.astype(int) - rgb).mean() < 4


def test_sizes_alpha_and_damage(heic) -> None:
    assert open_image(heic(scene(65, 63))).size == (63, 65)
    clear = np.dstack([np.zeros((64, 64, 3), np.uint8), np.full((64, 64), 128, np.uint8)])
    assert abs(np.asarray(open_image(heic(clear))).mean() - 127) < 3
    data = heic(scene(64, 64))
    for end in range(0, len(data), 40):
        with pytest.raises(ImageError):
            open_image(data[:end])
    assert "HEIF" not in Image.OPEN, "decoding does not register the plug-in"
