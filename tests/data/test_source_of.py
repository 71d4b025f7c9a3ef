"""An existing path is a data source without the name of its kind."""

from pathlib import Path

import pytest
from PIL import Image

from vitkit import data
from vitkit.data import source_of


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with images in class folders, and files of other sources."""
    for name in ("photos/cat/1.png", "photos/cat/2.png", "photos/dog/1.png", "photos/dog/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "table.csv").write_text("path,label\nphotos/cat/1.png,cat\nphotos/dog/1.png,dog\n")
    (tmp_path / "rows.jsonl").write_text('{"path": "photos/cat/1.png", "label": "cat"}\n')
    (tmp_path / "names.txt").write_text("photos/cat/1.png\n")
    for name in ("rows/train.parquet", "rows/README.md", "shards/train-0.tar", "shards/classes.txt", "shards/.hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("photos", "folder:photos"),
        ("photos/", "folder:photos"),
        ("./photos", "folder:photos"),
        (Path("photos"), "folder:photos"),
        ("table.csv", "csv:table.csv"),
        ("table.csv#label=label", "csv:table.csv#label=label"),
        ("rows.jsonl", "jsonl:rows.jsonl"),
        ("names.txt", "list:names.txt"),
        ("rows/train.parquet", "parquet:rows/train.parquet"),
        ("rows", "parquet:rows"),
        ("rows/*.parquet", "parquet:rows/*.parquet"),
        ("shards", "webdataset:shards"),
        ("shards/train-0.tar", "webdataset:shards/train-0.tar"),
        ("shards/train-{0..9}.tar", "webdataset:shards/train-{0..9}.tar"),
        ("folder:photos", "folder:photos"),
        ("digits", "digits"),  # a folder of this name is folder:digits
        ("part:split=train@photos", "part:split=train@photos"),
        ("nothing", "nothing"),
        ("nothing.csv", "nothing.csv"),
        ("", ""),
        ("a\0b", "a\0b"),
    ],
)
def test_an_existing_path_gets_the_name_of_its_source(place: Path, given: str, expected: str) -> None:
    assert source_of(given) == expected
    assert source_of(expected) == expected


def test_a_path_opens_like_its_source(place: Path) -> None:
    assert data.source("photos").classes == data.source("folder:photos").classes == ("cat", "dog")
    assert len(data.source(str(place / "photos"))) == 4
    assert len(data.source("table.csv")) == 2
    assert len(data.source("part:classes=cat@photos")) == 2
    training, validation = data.train_and_val("photos", held_out=0.5)
    assert (len(training), len(validation)) == (2, 2)


def test_a_missing_path_is_named(place: Path) -> None:
    with pytest.raises(ValueError, match="unknown data source 'photo', and there is no such file or folder"):
        data.splits("photo")
    with pytest.raises(ValueError, match=r"unknown data source 'fodler' in 'fodler:photos'; did you mean 'folder'\?"):
        data.splits("fodler:photos")
