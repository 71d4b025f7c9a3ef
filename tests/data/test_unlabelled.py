"""Sources of images without labels: flat folders, lists and tables."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit import data
from vitkit.data.augment import Augment, Transform
from vitkit.data.loader import Stream, evaluation_batches, training_batches
from vitkit.data.processor import Processor


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    folder = tmp_path / "flat"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(png(number))
    return folder


def tar(path: Path, labelled: tuple[int, ...] = ()) -> None:
    with tarfile.open(path, "w") as file:
        for number in range(6):
            members = {f"{number}.png": png(number)} | ({f"{number}.cls": b"0"} if number in labelled else {})
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))


def parquet(path: Path, **columns: object) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    images = pa.array([png(number) for number in range(6)], pa.binary())
    write_table(pa.table({"image": images, **columns}), path)


def named(kind: str, flat: Path) -> str:
    """Writes images without labels in one format, and returns the name of the source."""
    names = [f"flat/{number}.png" for number in range(6)]
    folder = flat.parent
    if kind == "folder":
        return f"folder:{flat}"
    if kind == "list":
        (folder / "images.txt").write_text("# photos\n" + "\r\n".join(names) + "\n\n")
        return f"list:{folder / 'images.txt'}"
    if kind == "csv":
        (folder / "images.csv").write_text("path\n" + "\n".join(names))
        return f"csv:{folder / 'images.csv'}"
    if kind == "csv, empty":
        (folder / "images.csv").write_text("path,label\n" + "\n".join(f"{name}," for name in names))
        return f"csv:{folder / 'images.csv'}"
    if kind == "jsonl":
        (folder / "images.jsonl").write_text("\n".join(json.dumps({"path": name, "width": 8}) for name in names))
        return f"jsonl:{folder / 'images.jsonl'}"
    if kind == "webdataset":
        tar(folder / "shard.tar")
        return f"webdataset:{folder}"
    columns = {"parquet": {"caption": ["a"] * 6}, "parquet, -1": {"label": [-1] * 6}}[kind]
    parquet(folder / "images.parquet", **columns)
    return f"parquet:{folder / 'images.parquet'}"


KINDS = ["folder", "list", "csv", "csv, empty", "jsonl", "webdataset", "parquet", "parquet, -1"]


@pytest.mark.parametrize("kind", KINDS)
def test_sources_without_labels_have_no_classes(kind: str, flat: Path) -> None:
    name = named(kind, flat)
    (source,) = data.splits(name, needs_labels=False).values()
    assert source.classes == ()
    assert [source.label(index) for index in range(len(source))] == [-1] * 6
    assert sorted(source.read(index).image.getpixel((0, 0))[0] for index in range(6)) == [0, 20, 40, 60, 80, 100]
    with pytest.raises(ValueError, match=r"label|class folders") as error:
        data.splits(name)
    assert "choose a pre-training recipe" in str(error.value)
    assert "\n" not in str(error.value)
    assert source.unlabelled in str(error.value)
    training, validation = data.train_and_val(name, needs_labels=False)
    assert (len(training), len(validation), training.classes, validation.classes) == (5, 1, (), ())
    part = data.splits(f"part:number=2@{name}", needs_labels=False)["all"]
    assert (len(part), part.classes) == (2, ())


def test_batches_have_no_target_columns(flat: Path) -> None:
    source = data.splits(f"folder:{flat}", needs_labels=False)["all"]
    transform = Transform(Processor.squash(8), Augment())
    batch = next(training_batches(source, transform, Stream(batch_size=4)))
    assert (batch.images.shape, batch.targets.shape) == ((4, 3, 8, 8), (4, 0))
    assert [each.targets.shape[1] for each in evaluation_batches(source, transform, batch_size=4)] == [0, 0]


def test_a_missing_label_is_no_class() -> None:
    """A label of -1 stays -1 in a relabelled source, and its target is zero for every class."""

    class Mixed(data.Source):
        classes = ("a", "b")

        def __len__(self) -> int:
            return 3

        def read(self, index: int, **options: object) -> data.Example:
            return data.Example(Image.new("RGB", (8, 8)), self.label(index), str(index))

        def label(self, index: int) -> data.Label:
            return (0, -1, (1, -1))[index]

    source = data.Relabelled(Mixed(), ("b", "c", "a"))
    assert [source.label(index) for index in range(3)] == [2, -1, (0, -1)]
    (batch,) = evaluation_batches(source, Transform(Processor.squash(8)), batch_size=3)
    assert torch.equal(batch.targets, torch.tensor([[0.0, 0, 1], [0, 0, 0], [1, 0, 0]]))


def test_one_class_is_as_good_as_no_labels(flat: Path) -> None:
    name = f"folder:{flat.parent}"
    assert data.splits(name)["all"].classes == ("flat",)
    training, validation = data.train_and_val(name, needs_labels=False)
    assert (training.classes, validation.classes, training.label(0), training.read(0).label) == ((), (), -1, -1)
    assert data.train_and_val(name)[0].classes == ("flat",)


def test_flat_split_folders(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "0.png").write_bytes(png(0))
    found = data.splits(f"folder:{tmp_path}", needs_labels=False)
    assert {split: (len(each), each.classes) for split, each in found.items()} == {"train": (1, ()), "val": (1, ())}


def test_labels_are_used_where_all_training_images_have_them(flat: Path) -> None:
    rows = [f"flat/{number}.png,{'ab'[number % 2] if number < 4 else ''},train" for number in range(4)]
    (flat.parent / "x.csv").write_text("path,label,split\n" + "\n".join(rows))
    assert data.splits(f"csv:{flat.parent / 'x.csv'}", needs_labels=False)["train"].classes == ("a", "b")


def test_some_missing_labels_are_an_error(flat: Path) -> None:
    tar(flat.parent / "shard.tar", labelled=(0, 1))
    with pytest.raises(ValueError, match=r"the sample '2' has no label"):
        data.splits(f"webdataset:{flat.parent}", needs_labels=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"flat/0.png\nflat/9.png\n", r"images\.txt, line 2: the image file 'flat/9\.png' does not exist"),
        (b"\n# nothing\n", r"images\.txt lists no images"),
        (b"fl\x00at\n", r"line 1: the image file 'fl\\x00at' does not exist"),
        (b"\xff\xfe\n", r"line 1: the image file '\\udcff\\udcfe' does not exist"),
    ],
)
def test_errors_of_lists_name_the_line(flat: Path, text: bytes, message: str) -> None:
    (flat.parent / "images.txt").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        data.splits(f"list:{flat.parent / 'images.txt'}")
    with pytest.raises(ValueError, match=r"'.*flat' is a folder, not a regular file; expected list:FILE"):
        data.splits(f"list:{flat}")


def test_a_list_of_names_that_are_not_utf_8(flat: Path) -> None:
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    (flat.parent / name).write_bytes(png(1))
    (flat.parent / "images.txt").write_bytes(b"\xef\xbb\xbfcaf\xe9.png")
    source = data.splits(f"list:{flat.parent / 'images.txt'}", needs_labels=False)["all"]
    assert np.asarray(source.read(0).image)[0, 0, 0] == 20
