"""Source `hub`, with the `datasets` library reading local files instead of the network."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from table_files import image_column, pixels, write

from vitkit import data
from vitkit.data.sources import hub
from vitkit.images import ImageError

datasets = pytest.importorskip("datasets", reason="needs the extra: pip install 'vitkit[data]'")
FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Load `owner/name` from a folder; return the list of arguments passed to the library."""
    for split, numbers in {"train": range(7), "validation": range(7, 9)}.items():
        columns = {"image": image_column(numbers), "label": [number % 2 for number in numbers]}
        write(tmp_path / "hub" / f"{split}-00000-of-00001.parquet", columns, FEATURES)
    requested: list[Any] = []
    load = datasets.load_dataset

    def from_folder(name: str, config: str | None, *, revision: str | None) -> Any:
        requested.append((name, config, revision))
        return load(str(tmp_path / "hub"), cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", from_folder)
    datasets.disable_progress_bars()
    return requested


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_splits_classes_and_rows(opened: list[Any]) -> None:
    training, validation = data.train_and_val("hub:owner/name")
    assert training.classes == validation.classes == ("cat", "dog")
    for source, numbers in ((training, range(7)), (validation, range(7, 9))):
        assert len(source) == len(numbers)
        for index in (1, 0):
            example = source.read(index)
            np.testing.assert_array_equal(np.asarray(example.image), pixels(numbers[index]))
            assert example.label == source.label(index) == numbers[index] % 2
    assert validation.key(1) == validation.read(1).key == "validation row 1"
    data.splits("hub:owner/name:small@v1#label=label")
    assert opened == [("owner/name", None, None), ("owner/name", "small", "v1")]
    with pytest.raises(ValueError, match="has no column 'kind'"):
        data.splits("hub:owner/name#label=kind")


def test_errors_of_the_library_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="expected hub:OWNER/NAME"):
        data.splits("hub:")

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("Config name is missing.\nPlease pick one among: ['a', 'b']")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(ValueError, match=r"'owner/name' cannot be opened: .* pick one among") as caught:
        data.splits("hub:owner/name")
    assert len(str(caught.value).splitlines()) == 1


def test_a_table_cannot_read_local_files(tmp_path: Path) -> None:
    outside = write(tmp_path / "secret.png", {"a": [1]})
    image = datasets.Image(decode=False)
    features = datasets.Features({"image": image, "label": datasets.ClassLabel(names=["a"])})
    rows = {"image": [{"bytes": None, "path": str(outside)}], "label": [0]}
    table = datasets.Dataset.from_dict(rows, features=features)
    with pytest.raises(ImageError, match="row 0: "):
        hub.Table(table, "train", {}).read(0)
    assert hub._cached(str(outside)) == b""
    inside = os.path.join(datasets.config.HF_DATASETS_CACHE, "x.png")
    assert hub._cached(inside) == Path(inside)
