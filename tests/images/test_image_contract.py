"""The contract of `vitkit.images` on sound files: every row of docs/images.md, and files from the wild."""

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
from image_files import Good, bmp_run_length, encode, exif, good, jpeg, over, png, scene, stored
from PIL import Image, ImageFile, ImageOps

from vitkit.images import CODES, ImageError, Limits, open_image, probe

DOCUMENT = Path(__file__).parents[2] / "docs/images.md"


@pytest.fixture(autouse=True)
def _untouched_pillow() -> Iterator[None]:
    """Nothing of Pillow's process-wide state changes, whatever is opened."""
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)
    yield
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))


def assert_close(picture: Image.Image, file: Good) -> None:
    pixels = np.asarray(picture).astype(int)
    assert picture.mode == "RGB"
    assert pixels.shape == file.pixels.shape
    assert np.abs(pixels - file.pixels.astype(int)).max() <= file.within


@pytest.mark.parametrize("name", good())
def test_a_sound_file_gives_its_picture(name: str) -> None:
    file = good()[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        picture = open_image(file.data)
    assert not caught
    assert_close(picture, file)


@pytest.mark.parametrize("name", good())
def test_the_probe_tells_the_size_before_decoding(name: str) -> None:
    file = good()[name]
    header = probe(file.data)
    size = header.placed[2:] if header.placed else (header.width, header.height)
    assert sorted(size) == sorted(file.pixels.shape[:2])


def test_every_kind_of_source_is_the_same(tmp_path: Path) -> None:
    data, path = jpeg(), tmp_path / "a picture.txt"
    path.write_bytes(data)
    wanted = open_image(data).tobytes()
    for source in (path, str(path), bytearray(data), memoryview(data), io.BytesIO(data), path.open("rb")):
        assert open_image(source).tobytes() == wanted
        if hasattr(source, "close"):
            source.close()
    file = io.BytesIO(data)
    assert open_image(file).tobytes() == open_image(file).tobytes() == wanted


def test_what_is_no_file_is_told_without_its_name(tmp_path: Path) -> None:
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


def test_limits_can_be_set_both_ways() -> None:
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
    line = np.zeros((1, 60_000_000, 1), np.uint8)
    big = png(line, 8, 0)
    with pytest.raises(ImageError):
        probe(big)
    assert probe(big, Limits(max_pixels=10**8)).width == 60_000_000
    for wrong in ({"max_bytes": 0}, {"max_pixels": True}, {"max_frames": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Limits(**wrong)  # type: ignore[arg-type]


def test_the_background_can_be_set() -> None:
    rgb = scene()
    alpha = np.full(rgb.shape[:2], 128)
    data = png(np.concatenate([rgb, alpha[..., None]], -1), 8, 6)
    for background in ((0, 0, 0), (255, 255, 255), (10, 200, 90)):
        ours = np.asarray(open_image(data, background=background)).astype(int)
        assert np.abs(ours - over(rgb, alpha, background)).max() <= 1
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
    whole = np.asarray(open_image(data)).astype(int)
    cut = data[: len(data) * 2 // 3] if kind != "run length" else data[:-10]
    with pytest.raises(ImageError) as caught:
        open_image(cut)
    assert caught.value.code == "truncated"
    part = np.asarray(open_image(cut, allow_truncated=True)).astype(int)
    assert part.shape == whole.shape
    first = part[-2:] if kind in ("bmp", "run length") else part[: whole.shape[0] // 8]
    wanted = whole[-2:] if kind in ("bmp", "run length") else whole[: whole.shape[0] // 8]
    assert np.abs(first - wanted).mean() < (60 if kind in ("progressive", "interlaced") else 1)
    assert np.array_equal(np.asarray(open_image(data, allow_truncated=True)), whole)


def test_profiles_can_be_ignored() -> None:
    for name in ("png/wide_colour", "tiff/wide_colour", "webp/wide_colour"):
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


def test_decoding_in_threads_gives_what_one_thread_gives() -> None:
    files = [file.data for file in good().values()] + [jpeg()[:-40]]

    def outcome(data: bytes) -> object:
        try:
            return open_image(data).tobytes()
        except ImageError as error:
            return error.code

    alone = [outcome(data) for data in files]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, files * 3)) == alone * 3
    assert threading.active_count() < 20


def test_every_row_of_the_document_is_tested_and_every_test_has_a_row() -> None:
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


def test_the_exif_set_is_upright(shared: Path) -> None:
    """The pixels are those that Pillow's own exif_transpose gives, and the picture is the reference's.

    The files of the set were compressed anew after they were turned, so single pixels differ from the reference by
    much; the mean over blocks of 8 x 8 must not differ by more than 2 levels, where a wrong turn makes it 40.
    """

    def blocks(pixels: np.ndarray) -> np.ndarray:
        return pixels.reshape(pixels.shape[0] // 8, 8, pixels.shape[1] // 8, 8, 3).mean(axis=(1, 3))

    odd_files(shared)
    for shape in ("Landscape", "Portrait"):
        folder = shared / "data/odd_images"
        wanted = np.asarray(open_image(folder / f"exif-orientation__{shape}_0.jpg")).astype(float)
        for orientation in range(9):
            path = folder / f"exif-orientation__{shape}_{orientation}.jpg"
            ours = np.asarray(open_image(path))
            assert np.array_equal(ours, np.asarray(ImageOps.exif_transpose(Image.open(path))))
            assert ours.shape == wanted.shape
            assert np.abs(blocks(ours) - blocks(wanted)).mean() <= 2, (shape, orientation)
            assert np.abs(blocks(ours[::-1]) - blocks(wanted)).mean() > 20


def test_odd_files_give_their_picture_or_a_code(shared: Path) -> None:
    """What Pillow opens we open, and the plain ones give the very numbers that Pillow gives."""
    unread, files = [], odd_files(shared)
    for name, pillow in files.items():
        path = shared / "data/odd_images" / name
        try:
            picture = open_image(path)
        except ImageError:
            unread.append(name)
            continue
        assert picture.mode == "RGB"
        header = probe(path.read_bytes())
        plain = header.orientation == 1 and header.transparency is None and header.profile is None
        if pillow["result"] == "ok" and plain and pillow["mode"] in ("RGB", "L", "1", "P", "CMYK"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                wanted = np.asarray(Image.open(path).convert("RGB"))
            assert np.array_equal(np.asarray(picture), wanted), name
    assert not [name for name in unread if files[name]["result"] == "ok"]
