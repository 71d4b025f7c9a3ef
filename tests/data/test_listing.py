"""Sources `csv` and `jsonl`: equal results, and errors that name the line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitkit import data
from vitkit.data.unreadable import TooManyUnreadable, check_skipped


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(6):
        path = tmp_path / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 3), (number, 0, 0)).save(path)
    return tmp_path


def csv(folder: Path, text: str, encoding: str = "utf-8") -> str:
    (folder / "list.csv").write_text(text, encoding=encoding)
    return f"csv:{folder / 'list.csv'}"


def jsonl(folder: Path, *rows: object) -> str:
    (folder / "list.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return f"jsonl:{folder / 'list.jsonl'}"


def labels(source: data.Source) -> list[data.Label]:
    assert all(source.read(index).label == source.label(index) for index in range(len(source)))
    return [source.label(index) for index in range(len(source))]


def test_class_names_indices_and_multiple_labels(folder: Path) -> None:
    source = data.source(csv(folder, "path,label\nimages/3.png,rose\nimages/0.png,daisy\nimages/1.png,rose\n"))
    assert source.classes == ("daisy", "rose")
    assert labels(source) == [1, 0, 1]
    example = source.read(0)
    assert example.key == "images/3.png"
    assert np.asarray(example.image)[0, 0, 0] == 3
    numbers = data.source(csv(folder, "\n\nlabel;file\n2;images/3.png\n0;images/0.png\n".lstrip(), "utf-8-sig"))
    assert (numbers.classes, labels(numbers)) == (("0", "1", "2"), [2, 0])
    several = data.source(csv(folder, 'image,labels\n"images/0.png",b|a\nimages/1.png,c\nimages/2.png,|\n'))
    assert (several.classes, labels(several)) == (("a", "b", "c"), [(0, 1), (2,), ()])


def test_json_lines_equal_csv(folder: Path) -> None:
    rows = [{"path": f"images/{n}.png", "label": name} for n, name in enumerate("bab")]
    one = data.source(jsonl(folder, *rows))
    other = data.source(csv(folder, "path,label\nimages/0.png,b\nimages/1.png,a\nimages/2.png,b\n"))
    assert (one.classes, labels(one)) == (other.classes, labels(other)) == (("a", "b"), [1, 0, 1])
    several = data.source(jsonl(folder, {"img": "images/0.png", "label": [2, 0]}, {"img": "images/1.png", "label": []}))
    assert (several.classes, labels(several)) == (("0", "1", "2"), [(0, 2), ()])


def test_columns_splits_and_class_names(folder: Path) -> None:
    text = "when,where,what,split\n1,images/0.png,1,train\n2,images/1.png,0,validation\n3,images/2.png,2,train\n"
    (folder / "classes.txt").write_text("cat\ndog\nbird\n")
    found = data.splits(csv(folder, text) + "#image=where,label=what")
    assert list(found) == ["train", "val"]
    assert found["train"].classes == found["val"].classes == ("cat", "dog", "bird")
    assert (labels(found["train"]), labels(found["val"])) == ([1, 2], [0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no label column"),
        ("path,label\n", "list.csv lists no images"),
        ("path,label\nimages/8.png,a\nimages/9.png,a\n", "line 2: the image file 'images/8.png' does not exist"),
        ("path,label\nimages/0.png,a\nimages/1.png,\n", "list.csv, line 3: the label is none"),
        ("path,label\nimages/0.png,a,b\n", "list.csv, line 2: 3 values, but the header has 2"),
        ("path,label\nimages/0.png,-1\n", "list.csv, line 2: class index -1 is out of range"),
        ("path,kind\nimages/0.png,1\n", "no label column .* its columns are path, kind; append #label=COLUMN"),
        ('path,label\n"images/0.png,1\n', "is not valid CSV"),
        ("path,label,split\nimages/0.png,1,some\n", "line 2: the split is 'some'; expected train, val or test"),
    ],
)  # fmt: skip
def test_errors_name_the_line(folder: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        data.splits(csv(folder, text))
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_image_is_left_out_and_named(folder: Path) -> None:
    text = "path,label\nimages/0.png,a\nimages/9.png,b\nimages/1.png,a\n"
    found = data.source(csv(folder, text))
    assert [found.read(index).key for index in range(len(found))] == ["images/0.png", "images/1.png"]
    assert found.skipped == ("list.csv, line 3: the image file 'images/9.png' does not exist",)
    check_skipped(found, 0.0)  # a few never end a run
    many = data.source(csv(folder, "path,label\nimages/0.png,a\n" + "images/9.png,a\n" * 11))
    with pytest.raises(TooManyUnreadable, match=r"11 of 12 images could not be read, but the limit is 90%"):
        check_skipped(many, 0.9)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"path": "images/0.png", "label": 0}, [1]], "line 2: the line is not a JSON object"),
        ([{"path": "images/0.png", "label": 0}, {"path": "images/1.png"}], "line 2: the label is none"),
        ([{"path": "images/0.png", "label": True}], "line 1: the label is True"),
        ([{"path": "images/0.png", "label": 1.5}, {"path": "images/1.png"}], "line 2: the target is missing"),
        ([{"path": "images/0.png", "label": 1.5}, {"path": "images/1.png", "label": "x"}], "line 2: the target is 'x'"),
        (
            [{"path": "images/0.png", "label": 1}, {"path": "images/0.png", "label": "a"}],
            "some labels are class indices and others are class names",
        ),
        ([{"path": 3, "label": 1}], "line 1: the image file '3' does not exist"),
        ([{"path": "images/0.png", "label": 10**9}], "line 1: the label is 1000000000, which is too large"),
    ],
)
def test_errors_of_json_lines(folder: Path, rows: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.splits(jsonl(folder, *rows))


def test_invalid_locations_raise(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file '/nowhere\.csv'; expected csv:FILE"):
        data.splits("csv:/nowhere.csv")
    with pytest.raises(ValueError, match="there is no file"):
        data.splits("jsonl:")
    with pytest.raises(ValueError, match="has no column 'pth'; did you mean 'path'"):
        data.splits(csv(folder, "path,label\nimages/0.png,a\n") + "#image=pth")
    with pytest.raises(ValueError, match="unknown column kind 'picture' in '#picture=path'"):
        data.splits(csv(folder, "path,label\nimages/0.png,a\n") + "#picture=path")
    (folder / "list.jsonl").write_bytes(b'{"path": "images/0.png", "label": 0}\n{"path"')
    with pytest.raises(ValueError, match="line 2: the line is not valid JSON"):
        data.splits(f"jsonl:{folder / 'list.jsonl'}")
    (folder / "list.csv").write_bytes(b"path,label\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        data.splits(f"csv:{folder / 'list.csv'}")
