"""Fuzzing of probe, decoder and processor: a mutated image file is read or raises `ImageError`.

A short run is part of the tests. With VITKIT_FUZZ_SECONDS (`make fuzz`), a second test runs that long with new seeds;
it prints the failing seed, and `mutated(seed)` returns the file. Add findings as small cases to tests/hostile_files.py.
"""

import os
import re
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
from band_files import array_file, tiff
from hostile_files import bad
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import good
from PIL import Image

from vitkit.data.processor import Processor
from vitkit.images import CODES, AnyImage, ImageError, Limits, open_channels, open_image, probe

LEAK = re.compile(r"(?<!\d)0x[0-9a-f]{4,}|Traceback|/[a-z]+/|<_io|PIL\b|object at", re.IGNORECASE)
LIMITS = Limits(max_pixels=2_000_000, max_bytes=4_000_000)
SECONDS = float(os.environ.get("VITKIT_FUZZ_SECONDS", "0"))
#: Maximum CPU time in seconds for one small file, ten times the usual.
MAX_SECONDS = 5.0
#: Integers that are likely to break header parsers.
BOUNDARY_VALUES = (
    0,
    1,
    2,
    7,
    8,
    9,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
)


def _band_seeds() -> list[bytes]:
    """Return small files of five bands in every layout."""
    random = np.random.default_rng(0)
    seeds = []
    for kind in ("u1", "u2", "f4"):
        pixels = random.integers(0, 200, (9, 11, 5)).astype(kind)
        options = [{}, {"planar": True}, {"tile": 16}, {"order": ">"}, {"deflate": True, "predictor": 2}]
        options += [{"deflate": True, "predictor": 3, "tile": 16}] if kind == "f4" else []
        seeds += [tiff(pixels, **each) for each in options]
        seeds += [array_file(pixels), array_file(np.asfortranarray(np.moveaxis(pixels, -1, 0)))]
    return seeds


BAND_SEEDS = _band_seeds()
SEEDS = [file.data for file in [*good().values(), *bad().values()] if 8 < len(file.data) < 60_000]


def with_valid_checksums(data: bytes) -> bytes:
    """Correct checksums of PNG and the length of WebP, so that mutations reach the code after these checks."""
    if data[:4] == b"RIFF" and len(data) > 8:
        return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return data
    fixed, at = bytearray(data), 8
    while at + 12 <= len(data):
        end = at + 8 + struct.unpack_from(">I", data, at)[0]
        if end + 4 > len(data):
            break
        struct.pack_into(">I", fixed, end, zlib.crc32(fixed[at + 4 : end]))
        at = end + 4
    return bytes(fixed)


def mutate(data: bytes, kind: int, where: float, value: int, other: bytes) -> bytes:
    """Apply one change at a position; `where` is the fraction of the file before it."""
    changed, at = bytearray(data), int(where * len(data))
    # Half of the changes are in the first 100 bytes, which contain the headers.
    at = at % min(100, len(data)) if data and value % 2 else at
    width = (1, 2, 4)[value % 3]
    if kind == 0 and data:
        changed[at % len(data)] ^= 1 << value % 8
    elif kind == 1:
        number = BOUNDARY_VALUES[value % len(BOUNDARY_VALUES)] & ((1 << 8 * width) - 1)
        changed[at : at + width] = number.to_bytes(width, ("big", "little")[value % 2])
    elif kind == 2:
        del changed[at:]
    elif kind == 3:
        del changed[at : at + 1 + value % 64]
    elif kind == 4:
        changed[at:at] = changed[at : at + 1 + value % 64] * (1 + value % 5)
    elif kind == 5:
        start = int(where * len(other))
        changed[at : at + value % 200] = other[start : start + value % 200]
    elif kind == 6:
        changed = changed[:at] + other[at:]
    return bytes(changed)


def mutated(seed: int, seeds: list[bytes] = SEEDS) -> bytes:
    """Return the mutated file of a seed."""
    random = np.random.default_rng(seed)
    data, other = (seeds[int(random.integers(len(seeds)))] for _ in range(2))
    for _ in range(int(random.integers(1, 4))):
        data = mutate(data, int(random.integers(7)), float(random.random()), int(random.integers(2**31)), other)
    return with_valid_checksums(data) if random.random() < 0.7 else data


def attempt(data: bytes, allow_truncated: bool) -> Image.Image | ImageError:
    """Return the image or the error."""
    try:
        header = probe(data, LIMITS, allow_truncated=allow_truncated)
        assert len(header.clean) <= 2 * len(data) + 4096
        return open_image(data, limits=LIMITS, allow_truncated=allow_truncated)
    except ImageError as error:
        return error


def check(data: bytes, allow_truncated: bool) -> str:
    """Check for an image within the limits or a clean error, no warning, bounded time; return "ok" or the code."""
    start = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = attempt(data, allow_truncated)
        if isinstance(result, Image.Image):
            assert result.mode == "RGB"
            assert 0 < result.width * result.height <= LIMITS.max_pixels
            for processor in (Processor.squash(16), Processor.crop(16, mean=(0.5,), std=(0.5,))):
                array = processor.array(result)
                assert array.shape == (processor.channels, 16, 16)
                assert np.isfinite(array).all()
    assert not caught, [str(warning.message) for warning in caught]
    assert time.process_time() - start < MAX_SECONDS
    if isinstance(result, Image.Image):
        return "ok"
    assert result.code in CODES
    assert not LEAK.search(str(result)), result
    assert result.__suppress_context__ or result.__context__ is None
    return result.code


@settings(max_examples=300, deadline=None)
@given(
    first=st.integers(0, len(SEEDS) - 1),
    second=st.integers(0, len(SEEDS) - 1),
    changes=st.lists(st.tuples(st.integers(0, 6), st.floats(0, 1), st.integers(0, 2**31)), max_size=5),
    fix=st.booleans(),
    allow_truncated=st.booleans(),
)
def test_mutated_files(first: int, second: int, changes: list, fix: bool, allow_truncated: bool) -> None:
    data = SEEDS[first]
    for change in changes:
        data = mutate(data, *change, SEEDS[second])
    check(with_valid_checksums(data) if fix else data, allow_truncated)


def check_bands(data: bytes) -> None:
    """Check for five bands within the limits or a clean error, no warning, bounded time."""
    start = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result: AnyImage | ImageError
        try:
            result = open_channels(data, 5, limits=LIMITS)
        except ImageError as error:
            result = error
    if isinstance(result, ImageError):
        assert result.code in CODES
        assert str(result).isprintable()
        assert not LEAK.search(str(result)), result
    else:
        assert np.asarray(result).shape == (result.height, result.width, 5)
        assert 0 < result.height * result.width * 5 <= LIMITS.max_pixels
    assert not caught, [str(warning.message) for warning in caught]
    assert time.process_time() - start < MAX_SECONDS


@settings(max_examples=200, deadline=None)
@given(
    first=st.integers(0, len(BAND_SEEDS) - 1),
    second=st.integers(0, len(BAND_SEEDS) - 1),
    changes=st.lists(st.tuples(st.integers(0, 6), st.floats(0, 1), st.integers(0, 2**31)), max_size=5),
)
def test_mutated_files_of_bands(first: int, second: int, changes: list) -> None:
    data = BAND_SEEDS[first]
    for change in changes:
        data = mutate(data, *change, BAND_SEEDS[second])
    check_bands(data)


@settings(max_examples=100, deadline=None)
@given(
    signature=st.sampled_from(
        [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"RIFF0000WEBP"]
    ),
    rest=st.binary(max_size=400),
)
def test_a_signature_and_random_bytes(signature: bytes, rest: bytes) -> None:
    assert check(signature + rest, False) in {*CODES, "ok"}


def test_seeds_reach_images_and_every_code() -> None:
    """Some mutated files are still valid, and some are not."""
    outcomes = [check(mutated(seed), bool(seed % 3 == 0)) for seed in range(600)]
    assert {"ok", "corrupt", "truncated", "too_many_pixels", "unsupported_format", "not_an_image"} <= set(outcomes)
    assert outcomes.count("ok") > 60


@pytest.mark.skipif(not SECONDS, reason="set VITKIT_FUZZ_SECONDS, as `make fuzz` does")
def test_mutated_files_for_long() -> None:
    seed, end = time.time_ns(), time.monotonic() + SECONDS
    count = 0
    while time.monotonic() < end:
        try:
            check(mutated(seed + count), bool(count % 3 == 0))
            check_bands(mutated(seed + count, BAND_SEEDS))
        except Exception:
            print(f"mutated({seed + count}) of tests/fuzz/test_images.py fails, allow_truncated={count % 3 == 0}")
            raise
        count += 1
    print(f"{count} mutated images")
