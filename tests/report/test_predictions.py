"""The files of predictions: one row per image, for every task, safe for spreadsheets."""

import csv
import io
import logging
import sys
from pathlib import Path

import pytest
import torch

from vitkit.data.fixes import read_fixes
from vitkit.evaluation import Predictions, average_precision, top1
from vitkit.report import predictions as files
from vitkit.task import SINGLE_LABEL, Task

KEYS = ("daisy/1.jpg", "=cmd|' /C calc'!A0.jpg", 'a "b",\nc.jpg', "caf\udce9.jpg")
NAMES = ("daisy", "-rose", "tulip|red")


def single() -> Predictions:
    logits = torch.tensor([[3.0, 0, 0], [0, 1, 2], [0, 1, 0], [1, 0, 0]])
    targets = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0]])
    return Predictions(logits=logits, targets=targets, keys=KEYS, task=SINGLE_LABEL)


def several() -> Predictions:
    logits = torch.tensor([[3.0, -2, 2], [-1, -1, -2], [1, -1, -2], [-1, -1, -1]])
    targets = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    return Predictions(logits, targets, KEYS, Task(problem_type="multi_label_classification"))


def numbers(targets: int = 2) -> Predictions:
    task = Task(problem_type="regression", target_mean=(10.0, -1.0)[:targets], target_std=(2.0, 0.5)[:targets])
    logits = torch.tensor([[0.0, 1], [1, 0], [-1, 2], [0.5, 0]])[:, :targets]
    values = torch.tensor([[10.0, -0.5], [12, -1], [8, 3], [13, -1.25]])[:, :targets]
    return Predictions(logits, values, KEYS, task)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / files.CSV).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_single_labels(tmp_path: Path) -> None:
    assert files.write(tmp_path, single(), NAMES, "val")[0] == "predictions.csv"
    table = rows(tmp_path)
    assert list(table[0]) == ["key", "split", "label", "prediction", "correct", "confidence", "loss",
                              "score:daisy", "score:-rose", "score:tulip|red"]  # fmt: skip
    assert [row["key"] for row in table] == [KEYS[0], "'" + KEYS[1], KEYS[2], "caf\\udce9.jpg"]
    assert [row["label"] for row in table] == ["daisy", "'-rose", "'-rose", ""]
    assert [row["prediction"] for row in table] == ["daisy", "tulip|red", "'-rose", "daisy"]
    assert [row["correct"] for row in table] == ["true", "false", "true", ""]
    assert {row["split"] for row in table} == {"val"}
    losses = [float(row["loss"]) for row in table[:3]]
    assert sum(losses) / 3 == pytest.approx(top1.metrics(single())["loss"], rel=1e-6)
    assert table[3]["loss"] == ""
    for row, scores in zip(table, single().scores.tolist(), strict=True):
        assert [float(row[f"score:{name}"]) for name in NAMES] == pytest.approx(scores, rel=1e-6)
        assert float(row["confidence"]) == pytest.approx(max(scores), rel=1e-6)


def test_several_labels(tmp_path: Path) -> None:
    files.write(tmp_path, several(), NAMES, "test")
    table = rows(tmp_path)
    assert [row["label"] for row in table] == ['["daisy", "tulip|red"]', "'-rose", "daisy|-rose", "[]"]
    assert [row["prediction"] for row in table] == ['["daisy", "tulip|red"]', "[]", "daisy", "[]"]
    assert [row["correct"] for row in table] == ["true", "false", "false", "true"]
    losses = [float(row["loss"]) for row in table]
    assert losses == pytest.approx(top1.losses(several()).tolist(), rel=1e-6)
    scores = torch.tensor([[float(row[f"score:{name}"]) for name in NAMES] for row in table])
    expected = average_precision.average_precision(several().logits[:, :2], several().targets[:, :2] > 0)
    found = average_precision.average_precision(scores.logit()[:, :2], several().targets[:, :2] > 0)
    torch.testing.assert_close(found, expected)


def test_numbers(tmp_path: Path) -> None:
    files.write(tmp_path, numbers(), ("age", "x"), "all")
    table = rows(tmp_path)
    assert list(table[0]) == [
        "key",
        "split",
        "label:age",
        "label:x",
        "prediction:age",
        "prediction:x",
        "correct",
        "loss",
    ]
    assert [row["prediction:age"] for row in table] == ["10", "12", "8", "11"]
    assert [row["label:x"] for row in table] == ["-0.5", "-1", "3", "-1.25"]
    assert {row["correct"] for row in table} == {""}
    # Errors in standard deviations: of the third image 0 and 6, of the fourth 1 and -0.5.
    assert [float(row["loss"]) for row in table] == pytest.approx([0, 0, 18, 0.625])
    files.write(tmp_path, numbers(1), ("age",), "all")
    assert list(rows(tmp_path)[0]) == ["key", "split", "label", "prediction", "correct", "loss"]


def test_many_classes_have_their_best_scores(tmp_path: Path) -> None:
    names = tuple(f"class {index}" for index in range(files.MAX_SCORES + 1))
    logits = torch.arange(float(len(names)))[None] / 10
    files.write(tmp_path, Predictions(logits, torch.eye(len(names))[:1], ("a",)), names, "val")
    (row,) = rows(tmp_path)
    assert [row[f"top{rank}"] for rank in range(1, 6)] == [f"class {index}" for index in (100, 99, 98, 97, 96)]
    assert float(row["top5_score"]) == pytest.approx(float(logits.softmax(dim=1)[0, 96]), rel=1e-6)
    assert not any(name.startswith("score:") for name in row)


@pytest.mark.parametrize(("make", "names"), [(single, NAMES), (several, NAMES), (numbers, ("age", "x"))])
def test_the_parquet_file_has_the_same_values(make: object, names: tuple[str, ...], tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra: pip install 'vitkit[data]'")
    predictions = make()  # type: ignore[operator]
    assert files.write(tmp_path, predictions, names, "val") == ("predictions.csv", "predictions.parquet")
    table = parquet.read_table(tmp_path / "predictions.parquet")
    assert table.column_names == list(rows(tmp_path)[0])
    columns = files.columns(predictions, names, "val")
    assert [table[column.name].to_pylist() for column in columns] == [list(column.values) for column in columns]
    assert table["key"][3].as_py() == "caf\\udce9.jpg"


def test_without_pyarrow_it_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "predictions.parquet").write_bytes(b"of an earlier evaluation")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr(files, "_reported", set())
    with caplog.at_level(logging.WARNING, "vitkit"):
        for _ in range(2):
            assert files.write(tmp_path, single(), NAMES, "val") == ("predictions.csv",)
    assert [record.getMessage() for record in caplog.records] == [
        "predictions.parquet is not written, because pyarrow is missing: pip install 'vitkit[data]'"
    ]
    assert not (tmp_path / "predictions.parquet").exists()
    assert files.write(tmp_path, None, NAMES, "val") == ()
    assert not (tmp_path / "predictions.csv").exists()


def test_no_cell_of_text_is_a_formula() -> None:
    for make, names in ((single, NAMES), (several, NAMES)):
        table = files.columns(make(), names, "val")
        cells = csv.reader(io.StringIO(files.csv_text(table, names)))
        text = [index for index, column in enumerate(table) if column.kind in ("text", "texts")]
        for row in cells:
            assert not [row[index] for index in text if row[index].startswith(("=", "+", "-", "@"))]


def test_edited_predictions_are_a_file_of_corrections(tmp_path: Path) -> None:
    files.write(tmp_path, single(), NAMES, "val")
    text = (tmp_path / files.CSV).read_text().splitlines(keepends=True)
    (tmp_path / "edited.csv").write_text("".join(text[:-1]))  # without the image that has no label
    found = read_fixes(tmp_path / "edited.csv")
    assert [(fix.key, fix.label, fix.split) for fix in found] == [
        (KEYS[0], "daisy", "val"), (KEYS[1], "-rose", "val"), (KEYS[2], "-rose", "val")]  # fmt: skip
