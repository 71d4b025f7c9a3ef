"""Hostile files: error codes, no leaks in messages, bounded time and memory, and no crashes."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_files import bad
from image_files import Good, good
from slow_cases import slow_except

from vitkit.images import CODES, ImageError, open_image, probe

TESTS = Path(__file__).parents[1]
#: Must not appear in messages: addresses, paths, tracebacks, names of library objects.
LEAK = re.compile(r"0x[0-9a-f]{4,}|Traceback|/[a-z]+/|\\\\|<_io|PIL|libtiff|object at|site-packages", re.IGNORECASE)
MAX_SECONDS, MAX_MEMORY = 1.0, 16 << 20


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


def measure(paths: list[Path]) -> list[dict]:
    if not Path("/proc/self/statm").exists():
        pytest.skip("memory is measured on Linux")
    done = subprocess.run(
        [sys.executable, "-X", "dev", str(TESTS / "measure_rejections.py")],
        input="\n".join(map(str, paths)),
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(TESTS), "PYTHONWARNINGS": ""},
        check=True,
    )
    assert not done.stderr, "there was output on standard error"
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["name"] for result in results] == [str(path) for path in paths]
    return results


def check(results: list[dict]) -> None:
    for result in results:
        name = result["name"]
        assert result["code"] in {*CODES, "ok"}, f"{name}: {result['code']}"
        assert not result["warnings"], f"{name} raises warnings: {result['warnings']}"
        assert not LEAK.search(result["message"]), name
        if result["code"] != "ok":
            assert result["seconds"] <= MAX_SECONDS, f"{name} took {result['seconds']:.2f} s to reject"
            assert result["memory"] <= MAX_MEMORY, f"{name} took {result['memory'] >> 20} MB to reject"


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_hostile_files_have_bounded_cost(every: int, tmp_path: Path) -> None:
    paths = []
    for number, file in enumerate([*bad().values()][::every]):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(file.data)
    results = measure(paths)
    check(results)
    assert all(result["code"] != "ok" for result in results)


@pytest.mark.slow
def test_odd_files_have_bounded_cost(shared: Path) -> None:
    folder = shared / "data/odd_images"
    if not folder.is_dir():
        pytest.skip("needs data/odd_images in the shared folder")
    check(measure(sorted(path for path in folder.iterdir() if path.suffix != ".json")))


def test_the_measurement_detects_memory(tmp_path: Path) -> None:
    """The memory of an accepted image is measured, so that of a bomb would be, too."""
    import numpy as np
    from image_files import png

    path = tmp_path / "large.png"
    path.write_bytes(png(np.zeros((3000, 3000, 3), np.uint8), 8, 2))
    (result,) = measure([path])
    assert result["code"] == "ok"
    assert 9_000_000 * 3 < result["memory"] < 9_000_000 * 12


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
