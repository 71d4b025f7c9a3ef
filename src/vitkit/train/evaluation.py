"""A model judged on pictures of one's own, outside of any run: its numbers as a file and as a page for people."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import torch

from vitkit import __version__, checkpoints, evaluate
from vitkit.data import Source, fitted, splits, train_and_val
from vitkit.data.augment import Transform
from vitkit.data.labels import matched
from vitkit.data.loader import Batch, evaluation_batches
from vitkit.data.processor import Processor
from vitkit.evaluate import Predictions, Subject
from vitkit.models import Backbone
from vitkit.train import mistakes
from vitkit.train.confused import certainty, classes
from vitkit.train.page import page, tile
from vitkit.train.state import write_file

Watch = Callable[[Iterable[Batch], int], Iterable[Batch]]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What a model is judged by: sources by name, and words for evaluators (`top1`, `real:labels.json`).

    `data` is judged on (its `val` or `test` split, or all of it). Evaluators that learn do so from `train`, or from the
    train split of `data`; with `held_out`, that share of each class of `data` is judged on and the rest learnt from.
    """

    data: str
    train: str | None = None
    evaluators: tuple[str, ...] = ("top1", "confusion", "calibration")
    held_out: float | None = None
    seed: int = 0
    batch_size: int = 8
    workers: int = 0

    def __post_init__(self) -> None:
        """Refuses what cannot be judged before any picture is read."""
        if not self.evaluators:
            raise ValueError(f"name at least one evaluator: {', '.join(evaluate.evaluators())}")
        if self.train is not None and "representations" not in self.kinds:
            raise ValueError(f"'{self.train}' is given to learn from, but {', '.join(self.evaluators)} does not learn")
        if self.train is not None and self.held_out is not None:
            raise ValueError("a held-out share of the data leaves the rest to learn from: leave one of the two out")
        if self.batch_size < 1:
            raise ValueError(f"the batch size is {self.batch_size}; it must be at least 1")

    @property
    def kinds(self) -> set[str]:
        """What the evaluators read: predictions, representations, the model."""
        return {evaluate.reads(word) for word in self.evaluators}

    def sources(self, labels: tuple[str, ...]) -> tuple[Source | None, Source]:
        """What to learn from, if there is any, and what to judge on, their classes counted alike.

        By the model's `labels` where its predictions are judged; ValueError where the classes are not the model's.
        """
        training, judged = self._found()
        if "representations" not in self.kinds:
            training = None
        elif training is None:
            raise ValueError(
                f"knn, fewshot, probe and linear learn from labelled pictures, and '{self.data}' has no train split: "
                "name a source to train them on, or hold a share out"
            )
        if "predictions" not in self.kinds:
            return training, judged if training is None else fitted(judged, training.classes, name=self.data)
        if not labels:
            raise ValueError("the model has no classes to be right about: judge it by knn, fewshot or probe")
        taught = None if training is None else matched(training, labels, name=self.train or self.data)
        return taught, matched(judged, labels, name=self.data)

    def _found(self) -> tuple[Source | None, Source]:
        found = splits(self.data)
        if self.held_out is not None:
            if "all" not in found:
                raise ValueError(f"'{self.data}' has splits of its own ({', '.join(found)}): none is to be held out")
            return train_and_val(self.data, held_out=self.held_out, seed=self.seed)
        name = next((name for name in ("val", "test", "all") if name in found), None)
        if name is None:
            raise ValueError(f"'{self.data}' has nothing to evaluate on; it has the splits {', '.join(found)}")
        if self.train is None:
            return found.get("train"), found[name]
        if self.train == self.data and name == "all":
            raise ValueError(f"'{self.data}' would be judged on the pictures that are learnt from: hold a share out")
        others = splits(self.train)
        training = others.get("train") or others.get("all")
        if training is None:
            raise ValueError(f"'{self.train}' has nothing to learn from; it has the splits {', '.join(others)}")
        return training, found[name]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What came of it; `predictions` where any evaluator asked for them."""

    model: str
    judge: Judge
    judged: Source
    training: Source | None
    numbers: dict[str, float]
    predictions: Predictions | None
    device: str
    precision: str
    best: checkpoints.Checkpoint | None = None

    def to_dict(self) -> dict[str, object]:
        """The JSON form: the numbers, with all that is needed to get them again."""
        return {
            "model": self.model,
            "data": self.judge.data,
            "train": self.judge.train,
            "held_out": self.judge.held_out,
            "seed": self.judge.seed,
            "pictures": len(self.judged),
            "training_pictures": None if self.training is None else len(self.training),
            "classes": len(self.judged.classes),
            "device": self.device,
            "precision": self.precision,
            "batch_size": self.judge.batch_size,
            "torch": torch.__version__,
            "vitkit": __version__,
            "numbers": self.numbers,
        }


def run(
    name: str, model: Backbone, processor: Processor, labels: tuple[str, ...], judge: Judge, watch: Watch | None = None
) -> Evaluation:
    """Judges a model, which is called `name`; `watch` may pass on the batches of a pass, of which it is told how many.

    Raises ValueError where model, pictures and evaluators do not fit, and ImageError for a picture that cannot be read.
    """
    training, judged = judge.sources(labels)
    transform = Transform(processor)

    def batches(source: Source) -> Callable[[], Iterable[Batch]]:
        def read() -> Iterable[Batch]:
            found = evaluation_batches(source, transform, batch_size=judge.batch_size, workers=judge.workers)
            return found if watch is None else watch(found, -(-len(source) // judge.batch_size))

        return read

    learnt = None if training is None else batches(training)
    subject = Subject(model, batches(judged), judged.classes, training=learnt, processor=processor)
    numbers = evaluate.evaluate(subject, judge.evaluators)
    parameter = next(model.parameters())
    return Evaluation(
        model=name,
        judge=judge,
        judged=judged,
        training=training,
        numbers=numbers,
        predictions=subject.predictions if "predictions" in judge.kinds else None,
        device=str(parameter.device),
        precision=getattr(model, "precision", str(parameter.dtype).removeprefix("torch.")),
        best=checkpoints.Checkpoint(model=subject.exact, processor=processor, labels=labels),
    )


def write(evaluation: Evaluation, folder: Path) -> None:
    """Writes `evaluation.json` and `report.html` into a folder; ValueError where a run's own report lies there."""
    report = folder / "report.html"
    if report.exists() and not (folder / "evaluation.json").exists():
        raise ValueError(f"'{report}' is there already, and is not of an evaluation: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "evaluation.json", (json.dumps(evaluation.to_dict(), indent=2) + "\n").encode())
    write_file(report, html(evaluation).encode())


def html(evaluation: Evaluation) -> str:
    """The evaluation as one page."""
    parts = [head(evaluation), table(evaluation.numbers)]
    predictions = evaluation.predictions
    if predictions is not None and bool((predictions.targets.sum(dim=1) > 0).any()):
        names = evaluation.judged.classes
        parts += [
            mistakes.section(evaluation.judged, predictions, evaluation.best),
            classes(predictions, names),
            certainty(predictions),
        ]
    text = escape(json.dumps(evaluation.to_dict(), indent=2))
    parts.append(f"<details><summary>All of it as evaluation.json</summary><pre>{text}</pre></details>")
    return page(f"{evaluation.model} on {evaluation.judge.data}", "\n".join(parts))


def head(evaluation: Evaluation) -> str:
    """What was judged by what, and the numbers that matter."""
    tiles = []
    if evaluation.predictions is not None:
        labelled = int((evaluation.predictions.targets.sum(dim=1) > 0).sum())
        wrong = len(mistakes.surest(evaluation.predictions))
        if labelled:
            tiles.append(tile(f"{(labelled - wrong) / labelled:.2%}", "of the pictures right", first=True))
        tiles.append(tile(f"{wrong} of {labelled}", "wrong"))
    tiles.append(tile(f"{len(evaluation.judged):,}", "pictures"))
    tiles.append(tile(evaluation.precision, f"on {evaluation.device}"))
    learnt = ""
    if evaluation.training is not None:
        name = evaluation.judge.train or evaluation.judge.data
        learnt = f" What learns has learnt from {len(evaluation.training):,} of <code>{escape(name)}</code>."
    return (
        f"<h1>{escape(evaluation.model)}</h1>"
        f'<p class="lead">Judged on {len(evaluation.judged):,} pictures of '
        f"<code>{escape(evaluation.judge.data)}</code>.{learnt}</p>"
        f'<div class="tiles">{"".join(tiles)}</div>'
    )


def table(numbers: dict[str, float]) -> str:
    """Every number, evaluator by evaluator."""
    rows = "".join(
        f"<tr><td><span class='soft'>{escape(evaluator)}</span> {escape(name)}</td><td>{shown}</td></tr>"
        for evaluator, name, shown in rows_of(numbers)
    )
    return f'<h2>All numbers</h2><div class="card scroll"><table class="classes">{rows}</table></div>'


def rows_of(numbers: dict[str, float]) -> Sequence[tuple[str, str, str]]:
    """The numbers as people read them: evaluator, name, value."""
    rows = []
    for key, value in numbers.items():
        evaluator, _, name = key.rpartition(".")
        rows.append((evaluator, name, f"{value:,.0f}" if value == round(value) and abs(value) > 1 else f"{value:,.4g}"))
    return rows
