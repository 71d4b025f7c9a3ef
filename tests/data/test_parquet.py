"""Source `parquet`: rows as written, in any order and any process, and errors."""

import pickle
import subprocess
import sys
from itertools import islice
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import torch
from table_files import STRUCT, image_column, pixels, png, write

from vitkit import data
from vitkit.data.augment import Transform
from vitkit.data.loader import Stream, training_batches
from vitkit.data.processor import Processor
from vitkit.data.sources.parquet import Parquet
from vitkit.images import ImageError

FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two training files of seven and four rows, a test file of two, with row groups of three."""
    for name, numbers in {
        "train-00000-of-00002": range(7),
        "train-00001-of-00002": range(7, 11),
        "test-00000-of-00001": range(11, 13),
    }.items():
        columns = {"image": image_column(numbers), "label": [number % 2 for number in numbers]}
        write(tmp_path / "data" / f"{name}.parquet", columns, FEATURES)
    return tmp_path


def assert_rows(source: data.Source, numbers: list[int]) -> None:
    assert len(source) == len(numbers)
    for index in np.random.default_rng(0).permutation(len(numbers)):
        example = source.read(int(index))
        np.testing.assert_array_equal(np.asarray(example.image), pixels(numbers[index]))
        assert example.label == source.label(int(index)) == numbers[index] % 2


def test_splits_classes_and_rows(folder: Path) -> None:
    found = data.splits(f"parquet:{folder}")
    assert list(found) == ["test", "train"]
    assert found["train"].classes == ("cat", "dog")
    assert_rows(found["train"], list(range(11)))
    assert_rows(found["test"], [11, 12])
    assert found["train"].read(8).key == "train-00001-of-00002.parquet row 1"
    training, validation = data.train_and_val(f"parquet:{folder}")
    assert (len(training), len(validation)) == (11, 2)


def test_a_file_a_glob_and_a_url_are_equivalent(folder: Path) -> None:
    file = folder / "data" / "test-00000-of-00001.parquet"
    for location in (file, folder / "data" / "te*.parquet", f"file://{file}"):
        assert_rows(data.splits(f"parquet:{location}")["test"], [11, 12])
    other = file.rename(folder / "some.parquet")
    assert_rows(data.source(f"parquet:{other}"), [11, 12])
    write(folder / "deep" / "validation" / "0000.parquet", {"image": image_column(range(2)), "label": [0, 1]}, FEATURES)
    assert_rows(data.splits(f"parquet:{folder / 'deep'}")["val"], [0, 1])


def test_a_small_cache_returns_the_same_rows(folder: Path) -> None:
    found = data.splits(f"parquet:{folder}")["train"]
    assert isinstance(found, Parquet)
    found.cache_bytes = 0
    assert_rows(found, list(range(11)))
    assert len(found._cache) == 1


def test_workers_and_copies_read_the_same(folder: Path) -> None:
    source = data.splits(f"parquet:{folder}")["train"]
    assert_rows(source, list(range(11)))  # files are open before the workers are forked
    transform = Transform(Processor.squash(4))
    batches = [
        list(islice(training_batches(source, transform, Stream(batch_size=4, workers=workers)), 5))
        for workers in (0, 2)
    ]
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.images, other.images)
        assert one.keys == other.keys
    assert_rows(pickle.loads(pickle.dumps(source)), list(range(11)))


def test_workers_read_a_remote_file_system(folder: Path) -> None:
    remote = fsspec.filesystem("memory")
    remote.put(str(folder / "data"), "/bucket", recursive=True)
    source = data.splits("parquet:memory://bucket")["train"]
    assert_rows(source, list(range(11)))
    transform = Transform(Processor.squash(4))
    batches = [
        list(islice(training_batches(each, transform, Stream(batch_size=4, workers=workers)), 3))
        for each, workers in ((source, 2), (data.splits(f"parquet:{folder}")["train"], 0))
    ]
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.images, other.images)


def test_bytes_columns_class_names_and_multiple_labels(tmp_path: Path) -> None:
    binary = pa.array([png(0), png(1)], pa.binary())
    write(tmp_path / "a.parquet", {"jpg": binary, "n": [1, 2], "class": ["rose", "daisy"]})
    source = data.source(f"parquet:{tmp_path}#image=jpg")
    assert (source.classes, source.label(0), source.label(1)) == (("daisy", "rose"), 1, 0)
    np.testing.assert_array_equal(np.asarray(source.read(1).image), pixels(1))
    for number, inner in enumerate((
        {"feature": {"names": ["a", "b", "c"], "_type": "ClassLabel"}, "_type": "Sequence"},
        {"feature": {"names": ["a", "b", "c"], "_type": "ClassLabel"}, "_type": "List"},
        [{"names": ["a", "b", "c"], "_type": "ClassLabel"}],
    )):  # fmt: skip
        features = {"img": {"_type": "Image"}, "labels": inner}
        path = write(
            tmp_path / str(number) / "b.parquet", {"img": image_column(range(2)), "labels": [[2, 0], []]}, features
        )
        several = data.source(f"parquet:{path}")
        assert (several.classes, several.label(0), several.label(1)) == (("a", "b", "c"), (0, 2), ())


def test_the_label_column_can_be_chosen(tmp_path: Path) -> None:
    classes = {"names": ["a", "b"], "_type": "ClassLabel"}
    columns = {"img": image_column(range(2)), "coarse_label": [0, 0], "fine_label": [1, 0]}
    write(tmp_path / "a.parquet", columns, {"img": {"_type": "Image"}, "coarse_label": classes, "fine_label": classes})
    assert data.source(f"parquet:{tmp_path}").label(0) == 1  # CIFAR-100's fine classes
    assert data.source(f"parquet:{tmp_path}#label=coarse_label").label(0) == 0
    with pytest.raises(ValueError, match="has no column 'coarse'"):
        data.source(f"parquet:{tmp_path}#label=coarse")


def test_invalid_files_raise(folder: Path) -> None:
    with pytest.raises(ValueError, match="no Parquet files at '/nowhere'"):
        data.splits("parquet:/nowhere")
    with pytest.raises(ValueError, match="no Parquet files at ''"):
        data.splits("parquet:")
    with pytest.raises(ValueError, match="'nosuch://x' cannot be opened"):
        data.splits("parquet:nosuch://x")
    write(folder / "bad" / "a.parquet", {"image": image_column(range(2)), "label": [0, 2]}, FEATURES)
    with pytest.raises(ValueError, match=r"a\.parquet row 1: class index 2 is out of range; there are 2 classes"):
        data.splits(f"parquet:{folder / 'bad'}")
    write(folder / "bad" / "a.parquet", {"image": image_column(range(2)), "label": [0, None]}, FEATURES)
    with pytest.raises(ValueError, match=r"a\.parquet row 1: the label is none"):
        data.splits(f"parquet:{folder / 'bad'}")
    write(folder / "bad" / "a.parquet", {"image": ["a", "b"], "label": [0, 1]})
    with pytest.raises(ValueError, match="the column 'image' has type string; expected encoded images"):
        data.splits(f"parquet:{folder / 'bad'}")
    other = {**FEATURES, "label": {"names": ["dog", "cat"], "_type": "ClassLabel"}}
    write(folder / "data" / "train-2.parquet", {"image": image_column(range(2)), "label": [0, 1]}, other)
    with pytest.raises(ValueError, match=r"train-2\.parquet and train-0.* have different columns or classes"):
        data.splits(f"parquet:{folder / 'data'}")
    (folder / "data" / "train-2.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"train-2\.parquet is not a Parquet file"):
        data.splits(f"parquet:{folder / 'data'}")


def test_a_split_without_labels_is_left_out(folder: Path) -> None:
    write(
        folder / "data" / "test-00000-of-00001.parquet", {"image": image_column(range(2)), "label": [-1, -1]}, FEATURES
    )
    assert list(data.splits(f"parquet:{folder}")) == ["train"]
    with pytest.raises(ValueError, match=r"test-00000-of-00001\.parquet: no image has a label"):
        data.splits(f"parquet:{folder / 'data'}/test*.parquet")
    write(
        folder / "data" / "test-00000-of-00001.parquet", {"image": image_column(range(2)), "label": [-1, 1]}, FEATURES
    )
    with pytest.raises(ValueError, match="row 0: class index -1 is out of range; there are 2 classes"):
        data.splits(f"parquet:{folder}")


def test_a_broken_image_raises_image_error_with_its_row(tmp_path: Path) -> None:
    rows = [{"bytes": b"none", "path": None}, {"bytes": None, "path": "/etc/passwd"}, None]
    write(tmp_path / "a.parquet", {"image": pa.array(rows, STRUCT), "label": [0, 0, 0]}, FEATURES)
    source = data.source(f"parquet:{tmp_path}")
    for index in range(3):
        with pytest.raises(ImageError, match=rf"a\.parquet row {index}: "):
            source.read(index)


@pytest.mark.slow
def test_a_missing_extra_names_the_pip_command() -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None; sys.modules['datasets'] = None\n"
        "from vitkit import data\n"
        "assert {'parquet', 'hub', 'csv', 'jsonl'} <= set(data.source_names())\n"
        "for name in ('parquet:x', 'hub:a/b'):\n"
        "    try: data.splits(name)\n"
        "    except ImportError as error: assert \"pip install 'vitkit[data]'\" in str(error), error\n"
        "    else: raise AssertionError(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_cifar10(shared: Path) -> None:
    if not (shared / "data" / "cifar10").is_dir():
        pytest.skip("needs data/cifar10 in the shared folder")
    training, test = data.train_and_val(f"parquet:{shared / 'data' / 'cifar10'}")
    assert (len(training), len(test)) == (50_000, 10_000)
    assert training.classes[:3] == ("airplane", "automobile", "bird")
    counts = [np.bincount([source.label(index) for index in range(len(source))]) for source in (training, test)]
    assert counts[0].tolist() == [5000] * 10
    assert counts[1].tolist() == [1000] * 10
    # Last row of one file and first row of the next.
    for index, key in ((24_999, "00000-of-00002.parquet row 24999"), (25_000, "00001-of-00002.parquet row 0")):
        example = training.read(index)
        assert example.key.endswith(key)
        assert (example.image.size, example.image.mode) == ((32, 32), "RGB")
