"""The contract of `vitkit.images` on valid files: every row of docs/images.md, and real files."""

import concurrent.futures
import fnmatch
import io
import json
import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from image_files import Good, bmp_run_length, composite, encode, exif, good, jpeg, png, scene, stored
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from vitkit.images import CODES, ImageError, Limits, open_image, probe

DOCUMENT = Path(__file__).parents[2] / "docs/images.md"


@pytest.fixture(autouse=True)
def _untouched_pillow() -> Iterator[None]:
    """Check that the global state of Pillow does not change."""
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)
    yield
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))


def assert_close(image: Image.Image, file: Good) -> None:
    pixels = np.asarray(image).astype(int)
    assert image.mode == "RGB"
    assert pixels.shape == file.pixels.shape
    assert np.abs(pixels - file.pixels.astype(int)).max() <= file.within


@pytest.mark.parametrize("name", good())
def test_a_valid_file_has_its_expected_pixels(name: str) -> None:
    file = good()[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image = open_image(file.data)
    assert not caught
    assert_close(image, file)


@pytest.mark.parametrize("name", good())
def test_probe_returns_the_size(name: str) -> None:
    file = good()[name]
    header = probe(file.data)
    size = header.canvas_position[2:] if header.canvas_position else (header.width, header.height)
    assert sorted(size) == sorted(file.pixels.shape[:2])


def test_every_kind_of_source(tmp_path: Path) -> None:
    data, path = jpeg(), tmp_path / "an image.txt"
    path.write_bytes(data)
    expected = open_image(data).tobytes()
    for source in (path, str(path), bytearray(data), memoryview(data), io.BytesIO(data), path.open("rb")):
        assert open_image(source).tobytes() == expected
        if hasattr(source, "close"):
            source.close()
    file = io.BytesIO(data)
    assert open_image(file).tobytes() == open_image(file).tobytes() == expected


def test_errors_do_not_contain_the_file_name(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    for path in (tmp_path / "secret", tmp_path / "missing.jpg", "/dev/null", "nul\0byte"):
        with pytest.raises(ImageError) as caught:
            open_image(path)
        assert caught.value.code == "unreadable"
        assert "secret" not in str(caught.value)
        assert "missing" not in str(caught.value)
    for nothing in (None, 3, [b"a"]):
        with pytest.raises(TypeError, match="path, bytes or an open"):
            open_image(nothing)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="binary"):
        open_image(io.StringIO("a"))  # type: ignore[arg-type]


def test_limits_can_be_changed() -> None:
    data = png(scene(100, 100), 8, 2)
    with pytest.raises(ImageError) as caught:
        open_image(data, limits=Limits(max_pixels=9_999))
    assert caught.value.code == "too_many_pixels"
    assert open_image(data, limits=Limits(max_pixels=10_000)).size == (100, 100)
    with pytest.raises(ImageError) as caught:
        open_image(data, limits=Limits(max_bytes=len(data) - 1))
    assert caught.value.code == "too_large"
    with pytest.raises(ImageError) as caught:
        open_image(io.BytesIO(data), limits=Limits(max_bytes=len(data) - 1))
    assert caught.value.code == "too_large"
    assert open_image(data, limits=Limits(max_bytes=len(data))).size == (100, 100)
    with pytest.raises(ImageError) as caught:
        open_image(good()["gif/animated"].data, limits=Limits(max_frames=1))
    assert caught.value.code == "too_large"
    line = np.zeros((1, 130_000_000, 1), np.uint8)
    big = png(line, 8, 0)
    with pytest.raises(ImageError):
        probe(big)
    assert probe(big, Limits(max_pixels=130_000_000)).width == 130_000_000
    for wrong in ({"max_bytes": 0}, {"max_pixels": True}, {"max_frames": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Limits(**wrong)  # type: ignore[arg-type]


def test_the_background_can_be_set() -> None:
    rgb = scene()
    alpha = np.full(rgb.shape[:2], 128)
    data = png(np.concatenate([rgb, alpha[..., None]], -1), 8, 6)
    for background in ((0, 0, 0), (255, 255, 255), (10, 200, 90)):
        ours = np.asarray(open_image(data, background=background)).astype(int)
        assert np.abs(ours - composite(rgb, alpha, background)).max() <= 1
    for wrong in ((0, 0), (0, 0, 256), (0.5, 0, 0)):
        with pytest.raises(ValueError, match="background"):
            open_image(data, background=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["jpeg", "progressive", "png", "interlaced", "gif", "bmp", "run length"])
def test_truncated_files_are_accepted_on_request(kind: str) -> None:
    rgb = scene(200, 160)
    image = Image.fromarray(rgb)
    data = {
        "jpeg": jpeg(rgb),
        "progressive": jpeg(rgb, progressive=True),
        "png": encode(image, "PNG"),
        "interlaced": encode(image, "PNG", interlace=1),
        "gif": encode(image.quantize(64), "GIF", interlace=0),
        "bmp": encode(image, "BMP"),
        "run length": bmp_run_length(8, 250),
    }[kind]
    complete = np.asarray(open_image(data)).astype(int)
    cut = data[: len(data) * 2 // 3] if kind != "run length" else data[:-10]
    with pytest.raises(ImageError) as caught:
        open_image(cut)
    assert caught.value.code == "truncated"
    part = np.asarray(open_image(cut, allow_truncated=True)).astype(int)
    assert part.shape == complete.shape
    first = part[-2:] if kind in ("bmp", "run length") else part[: complete.shape[0] // 8]
    expected = complete[-2:] if kind in ("bmp", "run length") else complete[: complete.shape[0] // 8]
    assert np.abs(first - expected).mean() < (60 if kind in ("progressive", "interlaced") else 1)
    assert np.array_equal(np.asarray(open_image(data, allow_truncated=True)), complete)


def test_profiles_can_be_ignored() -> None:
    for name in ("png/wide_color", "tiff/wide_color", "webp/wide_color"):
        assert np.array_equal(np.asarray(open_image(good()[name].data, profile="ignore")), scene()), name


def test_orientation_in_every_format() -> None:
    rgb = scene()
    for orientation in range(1, 9):
        image = Image.fromarray(stored(rgb, orientation))
        block = b"Exif\0\0" + exif(orientation)
        for data in (
            encode(image, "PNG", exif=block),
            encode(image, "WEBP", exif=block, lossless=True),
            encode(image, "TIFF", exif=block),
        ):
            assert np.array_equal(np.asarray(open_image(data)), rgb), orientation


def test_decoding_is_thread_safe() -> None:
    files = [file.data for file in good().values()] + [jpeg()[:-40]]

    def outcome(data: bytes) -> object:
        try:
            return open_image(data).tobytes()
        except ImageError as error:
            return error.code

    sequential = [outcome(data) for data in files]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, files * 3)) == sequential * 3
    assert threading.active_count() < 20


def test_rows_of_the_document_match_the_files() -> None:
    text = DOCUMENT.read_text()
    rows = [row for row in text.splitlines() if row.startswith("| ") and row.rstrip().endswith("`|")]
    patterns = [pattern for row in rows for pattern in re.findall(r"`([a-z0-9]+/[^`]+)`", row)]
    for pattern in patterns:
        assert fnmatch.filter(good(), pattern), f"docs/images.md names {pattern}, which no file has"
    for name in good():
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), f"docs/images.md has no row for {name}"
    for code in CODES:
        assert f"`{code}`" in text


def odd_files(shared: Path) -> dict[str, dict]:
    folder = shared / "data/odd_images"
    if not folder.is_dir():
        pytest.skip("needs data/odd_images in the shared folder")
    return {entry["file"]: entry["pillow"] for entry in json.loads((folder / "manifest.json").read_text())}


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["Landscape", "Portrait"])
def test_exif_orientations_of_real_files(shape: str, shared: Path) -> None:
    """Pixels are equal to Pillow's exif_transpose and close to the reference image.

    The files were compressed again after their rotation, so single pixels differ; means over blocks of 8 x 8 must not
    differ by more than 2, while a wrong orientation differs by about 40.
    """

    def blocks(pixels: np.ndarray) -> np.ndarray:
        return pixels.reshape(pixels.shape[0] // 8, 8, pixels.shape[1] // 8, 8, 3).mean(axis=(1, 3))

    odd_files(shared)
    folder = shared / "data/odd_images"
    reference = folder / f"exif-orientation__{shape}_0.jpg"
    expected = np.asarray(open_image(reference)).astype(float)
    for orientation in range(9):
        path = folder / f"exif-orientation__{shape}_{orientation}.jpg"
        ours = np.asarray(open_image(path))
        assert np.array_equal(ours, np.asarray(ImageOps.exif_transpose(Image.open(path))))
        assert ours.shape == expected.shape
        assert np.abs(blocks(ours) - blocks(expected)).mean() <= 2, orientation
        assert np.abs(blocks(ours[::-1]) - blocks(expected)).mean() > 20


def test_odd_files_are_read_or_raise(shared: Path) -> None:
    """Files that Pillow opens can be read, and plain ones have the same pixels."""
    unread, files = [], odd_files(shared)
    for name, pillow in files.items():
        path = shared / "data/odd_images" / name
        try:
            image = open_image(path)
        except ImageError:
            unread.append(name)
            continue
        assert image.mode == "RGB"
        header = probe(path.read_bytes())
        plain = header.orientation == 1 and header.transparency is None and header.profile is None
        if pillow["result"] == "ok" and plain and pillow["mode"] in ("RGB", "L", "1", "P", "CMYK"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                expected = np.asarray(Image.open(path).convert("RGB"))
            assert np.array_equal(np.asarray(image), expected), name
    # Older versions of Pillow do not know every file that the newest one reads.
    assert not [name for name in unread if files[name]["result"] == "ok" and opens(shared / "data/odd_images" / name)]


def opens(path: Path) -> bool:
    try:
        Image.open(path).close()
    except UnidentifiedImageError:
        return False
    return True
