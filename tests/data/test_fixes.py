"""Corrections of labels by a CSV file, for every kind of source and of labels."""

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitkit import data
from vitkit.data import Source, Subset, Unlabelled, fixes, train_and_val
from vitkit.data.fixes import Fix, Part, apply, fixed_splits, join_names, read_fixes, split_names, summary
from vitkit.data.labels import matched
from vitkit.text import from_spreadsheet_cell, spreadsheet_cell, utf8_text

NAMES = ("cat", "dog")


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), number * 5, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def label(number: int) -> str:
    return NAMES[number % 2]


def folder(path: Path, numbers: range = range(6)) -> str:
    for number in numbers:
        (path / label(number)).mkdir(parents=True, exist_ok=True)
        (path / label(number) / f"{number}.png").write_bytes(png(number))
    return f"folder:{path}"


def table(path: Path) -> str:
    path.mkdir()
    rows = []
    for number in range(6):
        (path / f"{number}.png").write_bytes(png(number))
        rows.append(f"{number}.png,{label(number)}\n")
    (path / "images.csv").write_text("path,label\n" + "".join(rows))
    return f"csv:{path / 'images.csv'}"


def lines(path: Path) -> str:
    path.mkdir()
    rows = []
    for number in range(6):
        (path / f"{number}.png").write_bytes(png(number))
        rows.append(json.dumps({"path": f"{number}.png", "label": label(number)}) + "\n")
    (path / "images.jsonl").write_text("".join(rows))
    return f"jsonl:{path / 'images.jsonl'}"


def parquet(path: Path) -> str:
    pa = pytest.importorskip("pyarrow", reason="needs the extra: pip install 'vitkit[data]'")
    import pyarrow.parquet

    for part, numbers in (("a", range(3)), ("b", range(3, 6))):  # two files of the same name
        (path / part).mkdir(parents=True)
        images = pa.array([{"bytes": png(number), "path": None} for number in numbers])
        content = pa.table({"image": images, "label": [label(number) for number in numbers]})
        pyarrow.parquet.write_table(content, path / part / "0.parquet")
    return f"parquet:{path}"


def webdataset(path: Path) -> str:
    for part, numbers in (("a", range(3)), ("b", range(3, 6))):  # two shards of the same name
        (path / part).mkdir(parents=True)
        with tarfile.open(path / part / "0.tar", "w") as archive:
            for number in numbers:
                for kind, content in (("png", png(number)), ("json", json.dumps({"label": label(number)}).encode())):
                    info = tarfile.TarInfo(f"{number % 3}.{kind}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return f"webdataset:{path}/*/0.tar"


def part(path: Path) -> str:
    return f"part:classes=dog+cat@{folder(path)}"


SOURCES: list[Callable[[Path], str]] = [folder, table, lines, parquet, webdataset, part]


def write(path: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("key", "action", "label")) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
def test_every_source_is_corrected(make: Callable[[Path], str], tmp_path: Path) -> None:
    source = data.source(make(tmp_path / "data"))
    keys = [source.key(index) for index in range(len(source))]
    assert keys == [source.read(index).key for index in range(len(source))]
    assert len(set(keys)) == 6
    chosen = source.classes[source.label(2)]  # type: ignore[index]
    other = next(name for name in NAMES if name != chosen)
    file = write(tmp_path / "fixes.csv", [(keys[2], "relabel", other), (keys[4], "drop", ""), ("nothing", "drop", "")])
    (fixed,) = apply([Part(source)], read_fixes(file))
    assert len(fixed) == 5
    assert [fixed.key(index) for index in range(5)] == [key for key in keys if key != keys[4]]
    assert fixed.classes[fixed.label(2)] == fixed.classes[fixed.read(2).label] == other  # type: ignore[index]
    same = [index for index in range(4) if index != 2]
    assert [fixed.label(index) for index in same] == [source.label(index) for index in same]
    assert fixed.read(4).image.tobytes() == source.read(5).image.tobytes()
    assert summary(Subset(fixed, np.arange(3))) == (
        "corrections: 1 label changed, 1 image dropped; 1 key not in the data: nothing"
    )


def test_a_random_split_does_not_change(tmp_path: Path) -> None:
    """Otherwise a model that was trained before would have seen images of the validation split."""
    name = folder(tmp_path / "data", range(40))
    training, validation = train_and_val(name, held_out=0.25, seed=3)
    keys = [[each.key(index) for index in range(len(each))] for each in (training, validation)]
    changes = (Fix(key=keys[0][1]), Fix(key=keys[1][2], label="dog", split="val"), Fix(key=keys[1][3], split="train"))
    first, second = fixed_splits(training, validation, changes)
    assert [first.key(index) for index in range(len(first))] == [key for key in keys[0] if key != keys[0][1]]
    assert [second.key(index) for index in range(len(second))] == [key for key in keys[1] if key != keys[1][3]]
    assert second.classes[second.label(2)] == "dog"  # type: ignore[index]
    assert fixed_splits(training, validation, ()) == (training, validation)
    assert summary(training, validation) == ""


def test_published_splits_and_other_data_are_told_apart(tmp_path: Path) -> None:
    for split in ("train", "test"):
        folder(tmp_path / "data" / split)
    training, validation = train_and_val(f"folder:{tmp_path / 'data'}")
    with pytest.raises(ValueError, match=r"'cat/0\.png' of the corrections is in the training and in the evaluation"):
        fixed_splits(training, validation, (Fix(key="cat/0.png"),))
    first, second = fixed_splits(training, validation, (Fix(key="cat/0.png", split="train"),))
    assert (len(first), len(second)) == (5, 6)
    for split in ("val", "test"):
        first, second = fixed_splits(training, validation, (Fix(key="cat/0.png", split=split),))
        assert (len(first), len(second)) == (6, 5)


def test_several_labels_and_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "b.png").write_bytes(png(2))
    (tmp_path / "images.csv").write_text("path,label,x,y\na.png,cat|dog,1.5,2\nb.png,bird,2.5,-3\n")
    several = data.source(f"csv:{tmp_path / 'images.csv'}")
    for text, expected in (("dog", (2,)), ("dog|bird", (0, 2)), ("[]", ()), ('["dog", "cat"]', (1, 2))):
        (fixed,) = apply([Part(several)], [Fix(key="a.png", label=text)])
        assert fixed.label(0) == fixed.read(0).label == expected
    numbers = data.source(f"csv:{tmp_path / 'images.csv'}#target=x,target=y")
    (fixed,) = apply([Part(numbers)], [Fix(key="b.png", label="-2|4e1")])
    assert fixed.targets(1) == fixed.read(1).targets == (-2.0, 40.0)
    assert fixed.targets(0) == numbers.targets(0)
    assert (fixed.relabelled, fixed.unchanged) == (1, 0)
    for text in ("3", "a|b", "1|nan", ""):
        with pytest.raises(ValueError, match=r"expected 2 numbers \(x, y\), separated by \|"):
            apply([Part(numbers)], [Fix(key="b.png", label=text)])


def test_labels_of_images_without_labels_are_ignored(tmp_path: Path) -> None:
    source = Unlabelled(data.source(folder(tmp_path / "data")), "no classes")
    (fixed,) = apply([Part(source)], [Fix(key="cat/0.png", label="dog"), Fix(key="cat/2.png")])
    assert (len(fixed), fixed.label(0), fixed.relabelled) == (5, -1, 0)


def test_models_with_other_class_names(tmp_path: Path) -> None:
    source = data.source(folder(tmp_path / "data"))
    (fixed,) = apply([Part(source)], [Fix(key="cat/0.png", label="dog")])
    seen = matched(fixed, ("wolf", "Dog", "cat, feline"), name="data")
    assert seen.label(0) == 1
    assert fixes.original_names(Subset(seen, np.arange(2))) == {1: "dog", 2: "cat"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("cat/0.png", "relabel", "dgo")], "unknown class 'dgo'; did you mean 'dog'"),
        ([("cat/0.png", "relabel", "cat|dog")], "has 2 labels, but images of this data have one label"),
        (
            [("x.png", "drop", ""), ("y.png", "drop", "")],
            "none of the 2 corrections matches an image.* like 'cat/0.png'",
        ),
        ([("cat/0.png", "delete", "")], "line 2: the action is 'delete'; expected relabel or drop"),
        ([("cat/0.png", "relabel", " ")], "line 2: the label is empty; give a label, or the action drop"),
        ([("", "drop", "")], "line 2: the key is empty"),
        ([("cat/0.png", "drop", ""), ("cat/0.png", "", "dog")], "lines 2 and 3, have different corrections"),
        ([], "lists no corrections"),
        ([(f"{label(each)}/{each}.png", "drop", "") for each in range(6)], "drop all images of a split"),
    ],
)
def test_wrong_corrections(rows: list[tuple[str, ...]], message: str, tmp_path: Path) -> None:
    source = data.source(folder(tmp_path / "data"))
    file = write(tmp_path / "fixes.csv", rows)
    with pytest.raises(ValueError, match=message):
        apply([Part(source)], read_fixes(file))


def test_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the file of corrections .*fixes\.csv' does not exist"):
        read_fixes(tmp_path / "fixes.csv")
    with pytest.raises(ValueError, match="the columns path, label; expected the columns key, label"):
        read_fixes(write(tmp_path / "fixes.csv", [("a.png", "cat")], ("path", "label")))
    with pytest.raises(ValueError, match="line 2: the split is 'all images'"):
        read_fixes(write(tmp_path / "fixes.csv", [("a", "b", "all images")], ("key", "label", "split")))


def test_a_file_saved_by_a_spreadsheet(tmp_path: Path) -> None:
    """With semicolons and a byte order mark, and without a column of actions."""
    path = tmp_path / "fixes.csv"
    path.write_bytes("\ufeffkey;label;was\r\n'=a;dog;cat\r\n b.png;'-1;\r\n".encode())
    assert read_fixes(str(path)) == (Fix(key="=a", label="dog"), Fix(key=" b.png", label="-1"))


@pytest.mark.parametrize("text", ["plain", "=1+1", "+1", "-1", "@x", "\tx", "'", "'=x", "''=x", "\uff1dx", "", "it's"])
def test_cells_are_safe_for_spreadsheets_and_read_back(text: str) -> None:
    cell = spreadsheet_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"))
    assert from_spreadsheet_cell(cell) == text


@pytest.mark.parametrize(
    "names", [["a"], ["a", "b"], [], ["a|b"], ["a|b", "c"], ["[x]", "y"], [" a", "b"], ["a", "b", "c"], ["-1", "=2"]]
)
def test_joined_names_are_read_back(names: list[str]) -> None:
    classes = ("a", "b", "c", "a|b", "[x]", "y", " a", "a|b|c", "-1", "=2")
    text = join_names(names, classes)
    assert ([text] if text in classes else split_names(text)) == names


def test_undecodable_file_names(tmp_path: Path) -> None:
    name = folder(tmp_path / "data")
    odd = tmp_path / "data" / "cat" / "caf\udce9.png"
    try:
        odd.write_bytes(png(1))
    except (OSError, UnicodeError):
        pytest.skip("this file system accepts only UTF-8 names")
    source: Source = data.source(name)
    key = next(source.key(index) for index in range(len(source)) if "caf" in source.key(index))
    (fixed,) = apply([Part(source)], read_fixes(write(tmp_path / "fixes.csv", [(utf8_text(key), "drop", "")])))
    assert len(fixed) == len(source) - 1
