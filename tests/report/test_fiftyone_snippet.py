"""The hand-over to FiftyOne in `docs/reports.md`, run with a stand-in that records what it is given."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
import torch

from vitkit.data.fixes import Fix, read_fixes
from vitkit.evaluation import Predictions
from vitkit.report import predictions

PAGE = Path(__file__).parents[2] / "docs" / "reports.md"


@dataclass
class Sample:
    filepath: str
    tags: list[str]
    fields: dict[str, object] = field(default_factory=dict)

    def __setitem__(self, name: str, value: object) -> None:
        self.fields[name] = value

    def __getitem__(self, name: str) -> object:
        return self.fields[name]


@dataclass
class Classification:
    label: str
    confidence: float | None = None


@dataclass
class Dataset:
    name: str
    samples: list[Sample] = field(default_factory=list)

    def add_sample(self, sample: Sample) -> None:
        self.samples.append(sample)

    def evaluate_classifications(self, field: str, *, gt_field: str, eval_key: str) -> None:
        assert all({field, gt_field} <= sample.fields.keys() for sample in self.samples)

    def sort_by(self, name: str, *, reverse: bool) -> "Dataset":
        assert all(name in sample.fields for sample in self.samples)
        return self

    def match_tags(self, tag: str) -> Iterator[Sample]:
        return (sample for sample in self.samples if tag in sample.tags)


def test_the_snippet_reads_our_file_and_writes_corrections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("fiftyone")
    vars(module).update(Sample=Sample, Classification=Classification, Dataset=Dataset, launch_app=lambda view: view)
    monkeypatch.setitem(sys.modules, "fiftyone", module)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    targets = torch.tensor([[1.0, 0], [0, 0]])
    found = Predictions(torch.tensor([[2.0, 0], [0, 1]]), targets, ("=a.jpg", "b/c, d.jpg"))
    predictions.write(tmp_path / "runs" / "first", found, ("-x", "y"), "val")
    first, second = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(first, names)
    dataset = names["dataset"]
    assert isinstance(dataset, Dataset)
    assert [sample.filepath for sample in dataset.samples] == [str(Path("photos/val") / key) for key in found.keys]
    assert [sample["ground_truth"] for sample in dataset.samples] == [Classification("-x"), None]
    assert [sample["predictions"].label for sample in dataset.samples] == ["-x", "y"]  # type: ignore[attr-defined]
    dataset.samples[0].tags.append("drop")
    exec(second, names)
    assert read_fixes("fixes.csv") == (Fix(key="=a.jpg"),)
