"""CSV and JSON-lines lists: the same pictures by either, and every mistake named by its line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitkit import data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(6):
        path = tmp_path / "photos" / f"{number}.png"
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


def test_names_numbers_and_several(folder: Path) -> None:
    source = data.source(csv(folder, "path,label\nphotos/3.png,rose\nphotos/0.png,daisy\nphotos/1.png,rose\n"))
    assert source.classes == ("daisy", "rose")
    assert labels(source) == [1, 0, 1]
    example = source.read(0)
    assert example.key == "photos/3.png"
    assert np.asarray(example.image)[0, 0, 0] == 3
    numbers = data.source(csv(folder, "\n\nlabel;file\n2;photos/3.png\n0;photos/0.png\n".lstrip(), "utf-8-sig"))
    assert (numbers.classes, labels(numbers)) == (("0", "1", "2"), [2, 0])
    several = data.source(csv(folder, 'image,labels\n"photos/0.png",b|a\nphotos/1.png,c\nphotos/2.png,|\n'))
    assert (several.classes, labels(several)) == (("a", "b", "c"), [(0, 1), (2,), ()])


def test_json_lines_give_the_same(folder: Path) -> None:
    rows = [{"path": f"photos/{n}.png", "label": name} for n, name in enumerate("bab")]
    one = data.source(jsonl(folder, *rows))
    other = data.source(csv(folder, "path,label\nphotos/0.png,b\nphotos/1.png,a\nphotos/2.png,b\n"))
    assert (one.classes, labels(one)) == (other.classes, labels(other)) == (("a", "b"), [1, 0, 1])
    several = data.source(jsonl(folder, {"img": "photos/0.png", "label": [2, 0]}, {"img": "photos/1.png", "label": []}))
    assert (several.classes, labels(several)) == (("0", "1", "2"), [(0, 2), ()])


def test_columns_splits_and_class_names(folder: Path) -> None:
    text = "when,where,what,split\n1,photos/0.png,1,train\n2,photos/1.png,0,validation\n3,photos/2.png,2,train\n"
    (folder / "classes.txt").write_text("cat\ndog\nbird\n")
    found = data.splits(csv(folder, text) + "#image=where,label=what")
    assert list(found) == ["train", "val"]
    assert found["train"].classes == found["val"].classes == ("cat", "dog", "bird")
    assert (labels(found["train"]), labels(found["val"])) == ([1, 2], [0])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no column"),
        ("path,label\n", "list.csv lists no pictures"),
        ("path,label\nphotos/0.png,a\nphotos/9.png,a\n", "list.csv, line 3: there is no picture 'photos/9.png'"),
        ("path,label\nphotos/0.png,a\nphotos/1.png,\n", "list.csv, line 3: the label is none"),
        ("path,label\nphotos/0.png,a,b\n", "list.csv, line 2: it has 3 values, the header 2"),
        ("path,label\nphotos/0.png,-1\n", "list.csv, line 2: the label is -1; there are 0 classes"),
        ("path,kind\nphotos/0.png,1\n", "no column that is called like labels .* it has path, kind: name it"),
        ('path,label\n"photos/0.png,1\n', "is no CSV"),
        ("path,label,split\nphotos/0.png,1,some\n", "line 2: the split is 'some'; it is train, val or test"),
    ],
)  # fmt: skip
def test_mistakes_are_named_by_line(folder: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        data.splits(csv(folder, text))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"path": "photos/0.png", "label": 0}, [1]], "line 2: it is no object"),
        ([{"path": "photos/0.png", "label": 0}, {"path": "photos/1.png"}], "line 2: the label is none"),
        ([{"path": "photos/0.png", "label": 1.5}], "line 1: the label is 1.5"),
        ([{"path": "photos/0.png", "label": True}], "line 1: the label is True"),
        ([{"path": "photos/0.png", "label": 1}, {"path": "photos/0.png", "label": "a"}], "some labels are numbers"),
        ([{"path": 3, "label": 1}], "line 1: there is no picture '3'"),
        ([{"path": "photos/0.png", "label": 10**9}], "the highest label is 1000000000"),
    ],
)
def test_mistakes_of_json_lines(folder: Path, rows: list[object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        data.splits(jsonl(folder, *rows))


def test_locations_that_are_none(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file '/nowhere\.csv': the source is written csv:FILE"):
        data.splits("csv:/nowhere.csv")
    with pytest.raises(ValueError, match="there is no file"):
        data.splits("jsonl:")
    with pytest.raises(ValueError, match="has no column 'pth'; did you mean 'path'"):
        data.splits(csv(folder, "path,label\nphotos/0.png,a\n") + "#image=pth")
    with pytest.raises(ValueError, match="names no column of vitkit's: 'picture'"):
        data.splits(csv(folder, "path,label\nphotos/0.png,a\n") + "#picture=path")
    (folder / "list.jsonl").write_bytes(b'{"path": "photos/0.png", "label": 0}\n{"path"')
    with pytest.raises(ValueError, match="line 2: it is no JSON"):
        data.splits(f"jsonl:{folder / 'list.jsonl'}")
    (folder / "list.csv").write_bytes(b"path,label\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match="not text in UTF-8"):
        data.splits(f"csv:{folder / 'list.csv'}")
