"""Source `webdataset`: samples of tar shards, and hostile shards that must be rejected without side effects."""

import io
import json
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitkit.data import Source, splits, train_and_val
from vitkit.data.sources import _tar
from vitkit.data.sources.webdataset import WebDataset
from vitkit.data.unreadable import TooManyUnreadable, check_skipped
from vitkit.images import ImageError


def image_bytes(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def plain(name: str, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, data


def write(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return path


def sample(number: int, label: bytes = b"1", kind: str = "cls") -> list[tuple[tarfile.TarInfo, bytes]]:
    return [plain(f"{number:04}.png", image_bytes(number)), plain(f"{number:04}.{kind}", label)]


def test_samples_of_shards(tmp_path: Path) -> None:
    for shard in range(3):
        write(
            tmp_path / f"images-{shard:02}.tar", [m for n in range(4) for m in sample(4 * shard + n, b"%d" % (n % 2))]
        )
    for location in (tmp_path, tmp_path / "images-{00..02}.tar", tmp_path / "images-*.tar"):
        source = splits(f"webdataset:{location}")["all"]
        assert len(source) == 12
        assert source.classes == ("0", "1")
        assert [source.label(index) for index in range(4)] == [0, 1, 0, 1]
        example = source.read(5)
        assert example.key == "images-01.tar/0005"
        assert example.label == 1
        np.testing.assert_array_equal(np.asarray(example.image), np.asarray(Image.open(io.BytesIO(image_bytes(5)))))


def test_splits_class_names_and_multiple_labels(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\ndog\nbird\n")
    write(tmp_path / "train-0.tar", sample(0, json.dumps({"label": [0, 2]}).encode(), "json") + sample(1, b"2"))
    write(tmp_path / "val-0.tar", sample(2, b'{"cls": 1}', "json"))
    training, validation = train_and_val(f"webdataset:{tmp_path}")
    assert training.classes == validation.classes == ("cat", "dog", "bird")
    assert [training.label(0), training.label(1), validation.label(0)] == [(0, 2), (2,), 1]


def test_a_broken_image_raises_with_its_key(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", [plain("x/7.jpg", b"not an image"), plain("x/7.cls", b"0"), *sample(8, b"0")])
    source = splits(f"webdataset:{tmp_path}")["all"]
    with pytest.raises(ImageError, match=r"a\.tar/x/7: the file is not an image"):
        source.read(0)
    assert source.read(1).image.size == (12, 9)


def special(kind: bytes, name: str = "0.png", link: str = "/etc/passwd") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    return info, b""


class Gadget:
    """Creates a canary folder when it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.canary),)


HOSTILE: dict[str, tuple[list[tuple[tarfile.TarInfo, bytes]], str]] = {
    "symbolic link": ([special(tarfile.SYMTYPE)], "is a link"),
    "hard link": ([*sample(0), special(tarfile.LNKTYPE, "1.png", "0.png")], "is a link"),
    "device": ([special(tarfile.CHRTYPE)], "not a regular file"),
    "block device": ([special(tarfile.BLKTYPE)], "not a regular file"),
    "pipe": ([special(tarfile.FIFOTYPE)], "not a regular file"),
    "parent": ([plain("../0.png", image_bytes(0))], "has an unsafe path"),
    "deep parent": ([plain("a/../../0.png", image_bytes(0))], "has an unsafe path"),
    "absolute": ([plain("/tmp-of-somebody/0.png", image_bytes(0))], "has an unsafe path"),
    "backslash": ([plain("..\\0.png", image_bytes(0))], "has an unsafe path"),
    "long name": ([plain("a" * 2000 + ".png", image_bytes(0))], "has an unsafe path"),
    "twice": ([*sample(0), *sample(0)], "twice"),
    "pth": ([*sample(0), plain("0.pth", b"x")], "is a pickle"),
    "pyd": ([*sample(0), plain("0.pyd", b"x")], "is a pickle"),
    "hidden pickle": ([*sample(0), plain("0.features.pkl", b"x")], "is a pickle"),
    "no label": ([plain("0.png", image_bytes(0))], "has no label"),
    "label of text": (sample(0, b"cat"), "neither a class index nor JSON"),
    "negative label": ([*sample(0, b"-1"), *sample(1)], "class index -1 is out of range"),
    "missing label": ([*sample(0, b'{"label": null}', "json"), *sample(1)], "the label is none"),
    "target of text": ([*sample(0, b"1.5"), *sample(1, b'"2.5"')], "expected a finite number"),
    "target NaN": (sample(0, b"NaN"), "expected a finite number"),
    "label of true": (sample(0, b"true"), "expected a class index"),
    "endless label": (sample(0, b"9" * 20), "too large; labels are class indices"),
    "no images": ([plain("0.cls", b"1"), plain("note.md", b"")], "has no images"),
    "label of an object": (sample(0, b'{"label": {"a": 1}}', "json"), "expected a class index"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_shards_are_rejected(name: str, tmp_path: Path) -> None:
    members, message = HOSTILE[name]
    write(tmp_path / "shard.tar", members)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message) as caught:
        splits(f"webdataset:{tmp_path}")
    assert "shard.tar" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_pickle_is_rejected_and_never_loaded(tmp_path: Path) -> None:
    import pickle

    canary = tmp_path / "canary"
    data = pickle.dumps(Gadget(canary))
    for extension in ("pkl", "pickle", "pt", "joblib"):
        write(tmp_path / "shard.tar", [*sample(0), plain(f"0.{extension}", data)])
        with pytest.raises(ValueError, match=r"is a pickle; pickles are not supported"):
            splits(f"webdataset:{tmp_path}")
    write(tmp_path / "shard.tar", [plain("0.png", data), plain("0.cls", b"0")])
    with pytest.raises(ImageError):
        splits(f"webdataset:{tmp_path}")["all"].read(0)
    assert not canary.exists()


def test_invalid_tar_files_raise(tmp_path: Path) -> None:
    complete = write(tmp_path / "complete.tar", [m for n in range(3) for m in sample(n)]).read_bytes()
    cases = {
        "cut.tar": complete[:700],
        "text.tar": b"hello" * 1000,
        "gzip.tar": b"\x1f\x8b" + complete,
        "empty.tar": b"",
    }
    for name, data in cases.items():
        (tmp_path / "here").mkdir(exist_ok=True)
        path = tmp_path / "here" / name
        path.write_bytes(data)
        with pytest.raises(ValueError, match=name):
            splits(f"webdataset:{path}")
        other = write(tmp_path / "other.tar", sample(0))
        source = WebDataset([path, other], {})
        assert (len(source), len(source.skipped)) == (1, 1)
        assert source.skipped[0].startswith(name)
    with pytest.raises(ValueError, match=r"shard '.*' does not exist"):
        splits(f"webdataset:{tmp_path}/x-{{0..3}}.tar")
    with pytest.raises(ValueError, match=r"no tar shards"):
        splits(f"webdataset:{tmp_path}/*.nothing")


def test_many_members_are_indexed_quickly(tmp_path: Path) -> None:
    info = tarfile.TarInfo("0.txt").tobuf(tarfile.USTAR_FORMAT)
    assert len(info) == 512
    with (tmp_path / "many.tar").open("wb") as file:
        for number in range(8_000):
            file.write(tarfile.TarInfo(f"{number}.txt").tobuf(tarfile.USTAR_FORMAT))
        file.write(bytes(1024))
    assert len(_tar.index(tmp_path / "many.tar").samples) == 8_000


def test_a_shard_that_shrinks_raises(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", sample(0))
    member = _tar.index(path).samples["0000"]["png"]
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ValueError, match=r"was truncated after"):
        _tar.read(path, member)


def shard_of(path: Path, number: int) -> tuple[Path, list[int]]:
    """Writes a shard of samples 0 to `number` - 1, and returns the positions of their image headers."""
    write(path, [member for each in range(number) for member in sample(each, b"%d" % (each % 3))])
    with tarfile.open(path) as archive:
        return path, [info.offset for info in archive if info.name.endswith(".png")]


def keys_of(source: Source) -> list[str]:
    return [source.read(index).key.partition("/")[2] for index in range(len(source))]


def damaged(path: Path, kind: str) -> list[int]:
    """Damages a shard of 20 samples in one way, and returns the samples that remain."""
    path, headers = shard_of(path, 20)
    data = bytearray(path.read_bytes())
    lost: set[int] = {7}
    if kind == "a header":
        data[headers[7] + 3] ^= 0xFF
    elif kind == "the first header":
        data[0] ^= 0xFF
        lost = {0}
    elif kind == "a label":
        start = headers[8] - 512  # the block before the next header
        data[start : start + 3] = b"\xff\xfe\x00"
    elif kind == "several kilobytes":
        data[headers[7] + 100 : headers[12] + 100 - (headers[12] - headers[7]) % 256] = bytes(range(256)) * (
            (headers[12] - headers[7]) // 256
        )
        lost = {7, 8, 9, 10, 11, 12}
        assert len(data) == path.stat().st_size
    elif kind == "a cut image":
        data = data[: headers[7] + 600]
        lost = set(range(7, 20))
    elif kind == "a cut header":
        data = data[: headers[7] + 100]
        lost = set(range(7, 20))
    elif kind == "zeros over a header":
        data[headers[7] : headers[7] + 512] = bytes(512)
    path.write_bytes(data)
    return [number for number in range(20) if number not in lost]


DAMAGES = [
    "a header",
    "the first header",
    "a label",
    "several kilobytes",
    "a cut image",
    "a cut header",
    "zeros over a header",
]


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_shard_loses_only_its_damaged_samples(tmp_path: Path, kind: str) -> None:
    remaining = damaged(tmp_path / "a.tar", kind)
    shard_of(tmp_path / "b.tar", 20)
    source = splits(f"webdataset:{tmp_path}")["all"]
    readable = [f"{number:04}" for number in remaining]
    assert keys_of(source) == readable + [f"{number:04}" for number in range(20)]
    assert 1 <= len(source.skipped) <= 2
    assert all(each.startswith("a.tar") and len(each.splitlines()) == 1 for each in source.skipped)
    assert source.lost >= 1
    assert [source.label(index) for index in range(len(remaining))] == [number % 3 for number in remaining]
    check_skipped(source, 0.1)


def test_archives_after_the_end_marker_are_read(tmp_path: Path) -> None:
    one, _ = shard_of(tmp_path / "one.tar", 3)
    two = write(tmp_path / "two.tar", [member for number in (7, 8) for member in sample(number)])
    one.write_bytes(one.read_bytes() + two.read_bytes())
    two.unlink()
    source = splits(f"webdataset:{tmp_path}")["all"]
    assert keys_of(source) == ["0000", "0001", "0002", "0007", "0008"]
    assert source.skipped == ()


def test_a_lost_shard_counts_with_the_estimated_number_of_its_images(tmp_path: Path) -> None:
    for number in range(4):
        shard_of(tmp_path / f"{number}.tar", 20)
    (tmp_path / "1.tar").write_bytes(b"x" * (tmp_path / "0.tar").stat().st_size)
    source = splits(f"webdataset:{tmp_path}")["all"]
    assert len(source) == 60
    assert source.skipped == ("1.tar is not an uncompressed tar file, or contains no files",)
    assert source.lost == pytest.approx(20, abs=2)
    check_skipped(source, 0.3)
    training, validation = train_and_val(f"webdataset:{tmp_path}")
    for each in (source, training, validation):
        with pytest.raises(TooManyUnreadable, match=r"could not be read, but the limit is 10%.*1\.tar is not"):
            check_skipped(each, 0.1)


def test_an_oversized_member_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tar, "MAX_MEMBER_BYTES", 1000)
    write(tmp_path / "a.tar", [*sample(0), plain("0001.png", bytes(2000)), plain("0001.cls", b"1"), *sample(2)])
    source = splits(f"webdataset:{tmp_path}")["all"]
    assert keys_of(source) == ["0000", "0002"]
    assert source.skipped == ("a.tar: the member '0001.png' has 2,000 bytes; the limit is 1,000",)


def test_numbers_are_targets(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", [*sample(0, b"1.5"), *sample(1, b"2"), *sample(2, b'{"label": -3.25}', "json")])
    source = splits(f"webdataset:{tmp_path}")["all"]
    assert source.regression
    assert (source.classes, [source.targets(index) for index in range(3)]) == (("label",), [(1.5,), (2.0,), (-3.25,)])
    assert source.read(1).targets == (2.0,)
    write(tmp_path / "a.tar", [*sample(0, b"[0.5, 1]"), *sample(1, b"[2, 3]")])
    source = splits(f"webdataset:{tmp_path}")["all"]
    assert (source.classes, source.targets(1)) == (("label 0", "label 1"), (2.0, 3.0))


def test_a_label_or_targets_are_selected_by_name(tmp_path: Path) -> None:
    members = []
    for number in range(3):
        fields = json.dumps({"age": number, "weight": 2.5 * number, "kind": "ab"[number % 2]}).encode()
        members += [*sample(number, fields, "json"), plain(f"{number:04}.txt", b"cat" if number else b"dog")]
        members += [plain(f"{number:04}.height", b"1%d" % number)]
    write(tmp_path / "a.tar", members)
    source = splits(f"webdataset:{tmp_path}#target=age,target=height")["all"]
    assert (source.classes, source.targets(2)) == (("age", "height"), (2.0, 12.0))
    assert splits(f"webdataset:{tmp_path}#target=weight")["all"].targets(1) == (2.5,)
    source = splits(f"webdataset:{tmp_path}#label=kind")["all"]
    assert (source.classes, [source.label(index) for index in range(3)]) == (("a", "b"), [0, 1, 0])
    source = splits(f"webdataset:{tmp_path}#label=txt")["all"]
    assert (source.classes, [source.label(index) for index in range(3)]) == (("cat", "dog"), [1, 0, 0])
    with pytest.raises(ValueError, match="no sample has a label"):
        splits(f"webdataset:{tmp_path}")
    assert splits(f"webdataset:{tmp_path}", needs_labels=False)["all"].classes == ()
    with pytest.raises(ValueError, match="given by its file name"):
        splits(f"webdataset:{tmp_path}#split=x")


def header(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])
@pytest.mark.parametrize("size", [512, 100_000_000])
def test_extended_headers_are_read_in_linear_time(tmp_path: Path, kind: bytes, size: int) -> None:
    """tarfile reads a chain of them recursively, and each up to the end of the file."""
    path = tmp_path / "a.tar"
    path.write_bytes(header(kind, size) * 2_000)
    start = time.process_time()
    shard = _tar.index(path)
    assert not shard.samples
    assert len(shard.damages) == _tar.MAX_DAMAGES + 1
    assert "the rest" in shard.damages[-1].reason
    assert sum(each.size for each in shard.damages) == path.stat().st_size
    assert time.process_time() - start < 10


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_read(tmp_path: Path, form: int) -> None:
    name = "/".join(["a" * 100] * 9) + "/0.jpg"
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
        for extension in ("jpg", "cls"):
            info = tarfile.TarInfo(name.replace("jpg", extension))
            info.size = 1
            info.uname = "u" * 100 if form == tarfile.PAX_FORMAT else "u"
            archive.addfile(info, io.BytesIO(b"1"))
    shard = _tar.index(tmp_path / "a.tar")
    assert not shard.damages
    assert next(iter(shard.samples.values())).keys() == {"jpg", "cls"}
