"""Source `webdataset`: samples of tar shards, and hostile shards that must be rejected without side effects."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitkit.data import splits, train_and_val
from vitkit.data.sources import _tar
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
    assert [training.label(0), training.label(1), validation.label(0)] == [(0, 2), 2, 1]


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
    "negative label": (sample(0, b"-1"), "expected a class index"),
    "label of a float": (sample(0, b"1.5"), "expected a class index"),
    "label of true": (sample(0, b"true"), "expected a class index"),
    "endless label": (sample(0, b"9" * 20), "expected a class index"),
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
    assert len(_tar.index(tmp_path / "many.tar")) == 8_000


def test_a_shard_that_shrinks_raises(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", sample(0))
    member = _tar.index(path)["0000"]["png"]
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ValueError, match=r"was truncated after"):
        _tar.read(path, member)
