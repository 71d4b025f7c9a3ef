"""Writes the predictions of a model for every image as `predictions.csv` and `predictions.parquet`.

The columns are `key`, `split`, `label`, `prediction`, `correct`, `confidence`, `loss` and the scores of the classes.
For a regression with several targets, there is one `label` and one `prediction` column per target. `docs/reports.md`
describes the columns.
"""

import csv
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vitkit import atomic
from vitkit.data.fixes import join_names
from vitkit.evaluation import Predictions, top1
from vitkit.text import spreadsheet_cell, utf8_text

CSV, PARQUET = "predictions.csv", "predictions.parquet"
MAX_SCORES = 100  # for more classes, only the best scores are written
TOP = 5

Value = str | float | bool | list[str] | None
_logger = logging.getLogger("vitkit")
_reported: set[str] = set()


@dataclass(frozen=True)
class Column:
    """A column of the table: its name, the type of its values, and one value (or None) per image."""

    name: str
    kind: Literal["text", "texts", "number", "flag"]
    values: Sequence[Value]


def correct(predictions: Predictions) -> Bool[Tensor, " n"]:
    """Returns whether the predicted class, or every independent label, of each image is correct.

    Images without a label count as correct. Raises ValueError for a regression.
    """
    if predictions.task.problem_type == "multi_label_classification":
        return (predictions.task.decisions(predictions.logits) == (predictions.targets > 0)).all(dim=1)
    if predictions.task.regression:
        raise ValueError("predictions of a regression are numbers, which are neither correct nor wrong")
    return top1.hits(predictions, 1) | ~labelled(predictions)


def labelled(predictions: Predictions) -> Bool[Tensor, " n"]:
    """Returns a mask of the labeled images. Unless the task is single-label, all images count as labeled."""
    if predictions.task.problem_type != "single_label_classification":
        return torch.ones(predictions.targets.shape[0], dtype=torch.bool)
    return predictions.targets.sum(dim=1) > 0


def losses(predictions: Predictions) -> Float[Tensor, " n"]:
    """Returns the loss of each image: the cross-entropy, or the mean squared error of standardized targets."""
    if not predictions.task.regression:
        return top1.losses(predictions)
    return F.mse_loss(predictions.logits, predictions.task.standardized(predictions.targets), reduction="none").mean(1)


def label_lists(chosen: Bool[Tensor, "n classes"], names: Sequence[str]) -> list[list[str]]:
    """Returns, for each image, the names of the chosen classes."""
    lists: list[list[str]] = [[] for _ in range(chosen.shape[0])]
    for row, column in chosen.nonzero().tolist():
        lists[row].append(names[column])
    return lists


def columns(predictions: Predictions, names: Sequence[str], split: str) -> list[Column]:
    """Returns the table of predictions. `names` are the class or target names, `split` is the split of the images."""
    number = len(predictions.keys)
    first = [
        Column("key", "text", [utf8_text(key) for key in predictions.keys]),
        Column("split", "text", [split] * number),
    ]
    names = [utf8_text(name) for name in names]
    if predictions.task.regression:
        return [*first, *_values(predictions, names)]
    return [*first, *_labels(predictions, names), *_scores(predictions, names)]


def _values(predictions: Predictions, names: Sequence[str]) -> list[Column]:
    titles = [""] if len(names) == 1 else [f":{name}" for name in names]
    true, found = predictions.targets.T.tolist(), predictions.scores.T.tolist()
    return [
        *(Column(f"label{title}", "number", values) for title, values in zip(titles, true, strict=True)),
        *(Column(f"prediction{title}", "number", values) for title, values in zip(titles, found, strict=True)),
        Column("correct", "flag", [None] * len(predictions.keys)),
        Column("loss", "number", losses(predictions).tolist()),
    ]


def _labels(predictions: Predictions, names: Sequence[str]) -> list[Column]:
    known = labelled(predictions).tolist()
    true = label_lists(predictions.targets > 0, names)
    found = label_lists(predictions.task.decisions(predictions.logits), names)
    right = [each if has else None for each, has in zip(correct(predictions).tolist(), known, strict=True)]
    loss = [each if has else None for each, has in zip(losses(predictions).tolist(), known, strict=True)]
    if predictions.task.problem_type == "multi_label_classification":
        pair = [Column("label", "texts", true), Column("prediction", "texts", found)]
    else:
        best = [names[int(index)] for index in predictions.logits.argmax(dim=1).tolist()]
        labels = [join_names(each, names) if each else None for each in true]
        pair = [Column("label", "text", labels), Column("prediction", "text", best)]
    confidence = predictions.scores.amax(dim=1).tolist()
    return [
        *pair,
        Column("correct", "flag", right),
        Column("confidence", "number", confidence),
        Column("loss", "number", loss),
    ]


def _scores(predictions: Predictions, names: Sequence[str]) -> list[Column]:
    """Returns one score column per class.

    For more than `MAX_SCORES` classes, returns the names and scores of the `TOP` best classes instead.
    """
    if len(names) <= MAX_SCORES:
        titles = [name if names.count(name) == 1 else f"{name} ({index})" for index, name in enumerate(names)]
        scores = predictions.scores.T.tolist()
        return [Column(f"score:{title}", "number", values) for title, values in zip(titles, scores, strict=True)]
    best = predictions.scores.topk(TOP, dim=1)
    found: list[Column] = []
    for rank in range(TOP):
        classes = [names[int(index)] for index in best.indices[:, rank].tolist()]
        found.append(Column(f"top{rank + 1}", "text", classes))
        found.append(Column(f"top{rank + 1}_score", "number", best.values[:, rank].tolist()))
    return found


def write(folder: Path, predictions: Predictions | None, names: Sequence[str], split: str) -> tuple[str, ...]:
    """Writes the prediction files to a folder and returns their names, CSV first.

    Existing files are replaced, or removed if `predictions` is None. The Parquet file requires pyarrow. If pyarrow is
    missing, a warning is logged once.
    """
    if predictions is None:
        (folder / CSV).unlink(missing_ok=True)
        (folder / PARQUET).unlink(missing_ok=True)
        return ()
    table = columns(predictions, names, split)
    atomic.write_text(folder / CSV, csv_text(table, names))
    if write_parquet(folder / PARQUET, table):
        return CSV, PARQUET
    (folder / PARQUET).unlink(missing_ok=True)
    return (CSV,)


def csv_text(table: Sequence[Column], names: Sequence[str] = ()) -> str:
    """Returns a table as CSV text.

    Text that a spreadsheet would read as a formula is escaped. Lists are joined with "|", as `join_names` does.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([spreadsheet_cell(column.name) for column in table])
    cells = [[_cell(value, names) for value in column.values] for column in table]
    writer.writerows(zip(*cells, strict=True))
    return file.getvalue()


def _cell(value: Value, names: Sequence[str]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float | int):
        return f"{value:.7g}"
    if value is None:
        return ""
    return spreadsheet_cell(value if isinstance(value, str) else join_names(value, names))


def write_parquet(path: Path, table: Sequence[Column]) -> bool:
    """Writes a table as a Parquet file. Returns False if pyarrow is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        if PARQUET not in _reported:
            _reported.add(PARQUET)
            _logger.warning("%s is not written, because pyarrow is missing: pip install 'vitkit[data]'", PARQUET)
        return False
    kinds = {
        "text": pyarrow.string(),
        "texts": pyarrow.list_(pyarrow.string()),
        "number": pyarrow.float64(),
        "flag": pyarrow.bool_(),
    }
    arrays = [pyarrow.array(column.values, type=kinds[column.kind]) for column in table]
    content = pyarrow.Table.from_arrays(arrays, names=[column.name for column in table])
    atomic.write_file(path, lambda part: pyarrow.parquet.write_table(content, part))
    return True
