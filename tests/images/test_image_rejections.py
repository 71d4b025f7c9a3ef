"""Hostile files: error codes, no leaks in messages, bounded time and memory, and no crashes."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from costly_files import costly
from hostile_files import bad
from image_files import Good, good
from slow_cases import slow_except

import vitkit
from vitkit.images import CODES, ImageError, open_image, probe

TESTS = Path(__file__).parents[1]
#: The package under test, also for other processes.
SOURCE = str(Path(vitkit.__file__).parents[1])
#: Must not appear in messages: addresses, paths, tracebacks, names of library objects.
LEAK = re.compile(r"0x[0-9a-f]{4,}|Traceback|/[a-z]+/|\\\\|<_io|PIL|libtiff|object at|site-packages", re.IGNORECASE)
MAX_SECONDS, MAX_MEMORY = 1.0, 16 << 20
#: Bounds of docs/images.md for accepted files: bytes per pixel, and multiples of the file size.
PIXEL_BYTES, FILES = 17, 3


@pytest.mark.parametrize("name", bad())
def test_a_hostile_file_is_rejected_with_its_code(name: str) -> None:
    file = bad()[name]
    with pytest.raises(ImageError) as caught:
        open_image(file.data)
    assert caught.value.code in file.codes
    assert not LEAK.search(str(caught.value))
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def outcome(data: bytes, **options: bool) -> bytes | str:
    """Return the pixels or the error code."""
    try:
        return open_image(data, **options).tobytes()
    except ImageError as error:
        return error.code


def test_hostile_files_cover_every_code() -> None:
    assert len(bad()) >= 80
    # The other codes are for missing files and for outputs of the model.
    assert {code for file in bad().values() for code in file.codes} == set(CODES) - {"unreadable", "not_finite"}


# Decoding the start of 49 megapixels takes a second, so one such file is decoded by default.
LARGE = [name for name in bad() if "49 MP" in name]


@pytest.mark.parametrize("name", slow_except([*bad()], LARGE[0], *(name for name in bad() if name not in LARGE)))
def test_allow_truncated_accepts_only_truncated_files(name: str) -> None:
    code = outcome(bad()[name].data, allow_truncated=True)
    assert code in CODES or set(bad()[name].codes) & {"truncated", "corrupt"}


def test_errors_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(ImageError("truncated", "the file ends early")))
    assert (error.code, str(error)) == ("truncated", "the file ends early")


def measure(paths: list[Path], *arguments: str) -> list[dict]:
    if not Path("/proc/self/statm").exists():
        pytest.skip("memory is measured on Linux")
    done = subprocess.run(
        [sys.executable, "-X", "dev", str(TESTS / "measure_rejections.py"), *arguments],
        input="\n".join(map(str, paths)),
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), SOURCE]), "PYTHONWARNINGS": ""},
        check=True,
    )
    assert not done.stderr, "there was output on standard error"
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["name"] for result in results] == [str(path) for path in paths]
    return results


def check(result: dict, size: int, seconds: float = MAX_SECONDS) -> None:
    name = result["name"]
    assert result["code"] in {*CODES, "ok"}, f"{name}: {result['code']}"
    assert not result["warnings"], f"{name} raises warnings: {result['warnings']}"
    assert not LEAK.search(result["message"]), name
    if result["code"] != "ok":
        assert result["seconds"] <= seconds, f"{name} took {result['seconds']:.2f} s to reject"
        memory = result["memory"] - size
        assert memory <= MAX_MEMORY, f"{name} took {memory >> 20} MB beyond its size to reject"


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_hostile_files_have_bounded_cost(every: int, tmp_path: Path) -> None:
    paths = []
    for number, file in enumerate([*bad().values()][::every]):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(file.data)
    results = measure(paths)
    for result in results:
        check(result, Path(result["name"]).stat().st_size)
    assert all(result["code"] != "ok" for result in results)


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict]]:
    """Yields the measurement of each costly file; one process measures all of them."""
    folder, paths = tmp_path_factory.mktemp("costly"), []
    for number, (make, _) in enumerate(costly().values()):
        paths.append(folder / str(number))
        paths[-1].write_bytes(make())
    yield dict(zip(costly(), measure(paths), strict=True))
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", costly())
def test_costly_files_have_bounded_cost(name: str, costs: dict[str, dict]) -> None:
    # Of a PNG, the pixels that its header states are decompressed, in small parts.
    result, seconds = costs[name], 4 * MAX_SECONDS if "zeros" in name else MAX_SECONDS
    path = Path(result["name"])
    if result["seconds"] > seconds:
        # Other processes slow down this one; the best of three measurements is the cost of the file.
        result = min((result, *measure([path, path])), key=lambda each: each["seconds"])
    check(result, path.stat().st_size, seconds)
    assert result["code"] in costly()[name][1]
    assert result["memory"] <= path.stat().st_size * 2 + MAX_MEMORY


@pytest.mark.slow
def test_odd_files_have_bounded_cost(shared: Path) -> None:
    folder = shared / "data/odd_images"
    if not folder.is_dir():
        pytest.skip("needs data/odd_images in the shared folder")
    for result in measure(sorted(path for path in folder.iterdir() if path.suffix != ".json")):
        check(result, Path(result["name"]).stat().st_size)


LARGE = {
    "webp": ("WEBP", "RGB", {"quality": 80}),
    "webp lossless": ("WEBP", "RGBA", {"lossless": True, "method": 0, "quality": 0}),
    "png": ("PNG", "RGB", {"compress_level": 1}),
    "png palette": ("PNG", "P", {"compress_level": 1}),
    "jpeg": ("JPEG", "RGB", {}),
    "jpeg progressive": ("JPEG", "CMYK", {"progressive": True, "subsampling": 0}),
    "tiff": ("TIFF", "RGBA", {}),
    "tiff of floats": ("TIFF", "F", {}),
}


@pytest.mark.parametrize("function", slow_except(["open_image", "open_pixels"], "open_image"))
def test_memory_of_accepted_files_is_bounded(tmp_path: Path, function: str) -> None:
    """The measurement also detects memory: the decoded image has three bytes per pixel, of which some may be reused."""
    import numpy as np
    from image_files import encode
    from PIL import Image

    side = 2500
    image = Image.fromarray(np.add.outer(np.arange(side), np.arange(side) * 3).astype(np.uint8))
    paths = []
    for name, (kind, mode, options) in LARGE.items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(encode(image.convert("RGB" if mode != "F" else mode).convert(mode), kind, **options))
    for path, result in zip(paths, measure(paths, function), strict=True):
        assert result["code"] == "ok", path.name
        most = PIXEL_BYTES * side**2 + FILES * path.stat().st_size + (1 << 20)
        assert 2 * side**2 <= result["memory"] <= most, path.name


def test_large_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from vitkit.images import decode

    active, most = 0, 0

    def layers(*arguments: object) -> object:
        nonlocal active, most
        active += 1
        most = max(most, active)
        time.sleep(0.01)
        active -= 1
        return original(*arguments)

    original = decode._layers
    monkeypatch.setattr(decode, "_layers", layers)
    data = good()["png/rgb"].data
    for large, expected in ((100, {1}), (10**9, {2, 3, 4})):
        monkeypatch.setattr(decode, "_LARGE", large)
        most = 0
        with ThreadPoolExecutor(4) as pool:
            assert len({image.tobytes() for image in pool.map(open_image, [data] * 12)}) == 1
        assert most in expected


@pytest.mark.parametrize("name", [name for name in good() if not name.endswith(("line", "column"))])
def test_a_truncated_file_is_rejected_or_unchanged(name: str) -> None:
    file: Good = good()[name]
    complete = open_image(file.data).tobytes()
    step = max(1, len(file.data) // 40)
    for end in range(0, len(file.data), step):
        allowed = (complete, "truncated", "not_an_image", "corrupt", "unsupported_format")
        assert outcome(file.data[:end]) in allowed, f"cut at {end} of {len(file.data)}"


def test_probe_never_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.__init__", lambda *_: pytest.fail("decoded"))
    for file in good().values():
        probe(file.data)


def test_names_of_unsupported_formats() -> None:
    for name, expected in {"tga": "TGA", "tga with a color map": "TGA", "cursor": "cursor", "icon": "icon"}.items():
        with pytest.raises(ImageError, match=f"^{expected} files are not supported"):
            open_image(bad()[f"nothing/{name}"].data)


def test_any_error_of_the_fast_decoder_means_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    from vitkit.images import turbo

    data = good()["jpeg/plain"].data
    expected = open_image(data).tobytes()
    for error in (KeyError(6), AssertionError("x"), MemoryError(), OverflowError()):

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        decoder = types.SimpleNamespace(decode_jpeg_header=fail, decode_jpeg=fail)
        monkeypatch.setattr(turbo, "equal_decoder", lambda decoder=decoder: decoder)
        assert open_image(data).tobytes() == expected
