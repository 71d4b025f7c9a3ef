"""report.html of a run folder: what the run came to, how it got there, and every kind of mistake it makes, as
pictures.
"""

from dataclasses import dataclass
from html import escape
from typing import Any

from vitkit import atomic, checkpoints, evaluate
from vitkit.data import Source, Subset, train_and_val
from vitkit.data.augment import Transform
from vitkit.data.loader import evaluation_batches
from vitkit.evaluate import Predictions
from vitkit.train import charts, mistakes, run
from vitkit.train.charts import Line
from vitkit.train.confused import certainty, classes
from vitkit.train.events import read
from vitkit.train.folder import RunFolder
from vitkit.train.page import page, tile
from vitkit.train.run import Run


@dataclass(frozen=True)
class Findings:
    """All that a report tells of."""

    run: Run
    events: list[dict[str, Any]]
    training: Source
    held_out: Source
    predictions: Predictions
    best: checkpoints.Checkpoint

    @property
    def parameters(self) -> int:
        """How many numbers the model has learned."""
        return sum(parameter.numel() for parameter in self.best.model.parameters())

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of one kind."""
        return [event for event in self.events if event["kind"] == kind]

    @property
    def kept(self) -> int:
        """The step of the model that is reported on."""
        evaluations = self.of("evaluation")
        if self.run.keep == "last":
            return int(evaluations[-1]["step"])
        return int(max(evaluations, key=lambda event: event[self.run.score])["step"])


def write(place: RunFolder) -> None:
    """Writes the report of what a run folder holds; ValueError where no model has been kept yet."""
    if not place.best.is_dir():
        raise ValueError(f"'{place.path}' has nothing to report yet: no model was evaluated")
    atomic.write_text(place.report, html(gather(place)))


def gather(place: RunFolder) -> Findings:
    """Reads a run folder and judges its best model."""
    of = place.run()
    training, held_out = train_and_val(
        of.data.source, val=of.data.val, held_out=of.data.held_out, seed=of.data.split_seed
    )
    best = checkpoints.load(place.best)
    transform = Transform(best.processor)
    subject = evaluate.Subject(
        best.model, lambda: evaluation_batches(held_out, transform, batch_size=of.batch_size), held_out.classes
    )
    return Findings(of, read(place.log), training, held_out, subject.predictions, best)


def html(findings: Findings) -> str:
    """The report as one page."""
    predictions, names = findings.predictions, findings.held_out.classes
    parts = [
        head(findings),
        curves(findings),
        mistakes.section(findings.held_out, predictions, findings.best),
        classes(predictions, names),
        certainty(predictions),
        config(findings),
    ]
    return page(findings.run.name, "\n".join(parts))


def head(findings: Findings) -> str:
    """The numbers that matter."""
    labelled = int((findings.predictions.targets.sum(dim=1) > 0).sum())
    wrong = len(mistakes.surest(findings.predictions))
    steps = findings.of("step")
    kept = findings.kept
    start, end = findings.events[0]["time"], findings.events[-1]["time"]
    speeds = sorted(event["images_per_second"] for event in steps if event["images_per_second"])
    used = sorted(event["mfu"] for event in steps if "mfu" in event)
    share = f", {used[len(used) // 2]:.0%} MFU" if used else ""
    data = findings.run.data
    flattered = (
        f" Of {len(findings.of('evaluation'))} models it is the best on these pictures, which flatters it a little."
        if findings.run.keep == "best" and len(findings.of("evaluation")) > 1
        else ""
    )
    shared = isinstance(findings.held_out, Subset)
    split = f"a stratified {data.held_out:.0%} held out with seed {data.split_seed}" if shared else "its own split"
    split = data.val or split
    tiles = [
        tile(f"{(labelled - wrong) / labelled:.2%}", "of held-out pictures right", first=True),
        tile(f"{wrong} of {labelled}", "wrong"),
        tile(f"{kept:,}", f"step of this model, the {findings.run.keep} one"),
        tile(f"{findings.parameters / 1e6:.3g} M", "parameters"),
        tile(duration(end - start), "training"),
        tile(f"{speeds[len(speeds) // 2]:,.0f}" if speeds else "-", f"images a second{share}"),
    ]
    return (
        f"<h1>{escape(findings.run.name)}</h1>"
        f'<p class="lead">Learned {len(findings.training.classes)} classes from {len(findings.training):,} pictures of '
        f"<code>{escape(data.source)}</code>, and judged on {len(findings.held_out):,} that it never saw "
        f"({escape(split)}).{flattered}</p>"
        f'<div class="tiles">{"".join(tiles)}</div>'
    )


def curves(findings: Findings) -> str:
    """Loss and accuracy over the steps."""
    steps, evaluations = findings.of("step"), findings.of("evaluation")
    if not steps or not evaluations:
        return ""
    loss = [(event["step"], event["loss"]) for event in steps]
    held = [(event["step"], event["top1.loss"]) for event in evaluations if "top1.loss" in event]
    right = [(event["step"], event[findings.run.score]) for event in evaluations]
    learned = [(event["step"], event["accuracy"]) for event in steps if "accuracy" in event]
    low = min(y for _, y in [*right, *charts.smoothed(learned)])
    charts_ = [
        (
            "Loss",
            [
                Line("training", loss, "quiet"),
                Line("training, smoothed", charts.smoothed(loss), "train"),
                Line("held out", held, "held", dots=True),
            ],
            {},
        ),
        (
            "Accuracy",
            [
                Line("training", charts.smoothed(learned), "train"),
                Line("held out", right, "held", dots=True),
            ],
            {"percent": True, "limits": (max(0.0, min(low, 0.9) - 0.02), 1.0)},
        ),
    ]
    key = (
        '<p class="key"><span><i style="background:var(--rust)"></i>training, on changed pictures</span>'
        '<span><i style="background:var(--blue)"></i>held out</span></p>'
    )
    cards = "".join(
        f'<div class="card"><h3>{title}</h3>{charts.line_chart(lines, title=title, **options)}{key}</div>'
        for title, lines, options in charts_
    )
    return f'<h2>How it learned</h2><div class="pair">{cards}</div>'


def config(findings: Findings) -> str:
    """Everything needed to repeat the run."""
    start = findings.events[0]
    where = f"torch {start['torch']}, Python {start['python']}, {start['device']}" if "torch" in start else ""
    text = escape(run.to_json(findings.run))
    summary = "<summary>The whole run as config.json</summary>"
    return f"<details>{summary}<p class='soft'>{where}</p><pre>{text}</pre></details>"


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
