"""Report of a training run with its metrics, curves, mistakes and config."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from vitkit.checkpoints import Checkpoint
from vitkit.config import JsonDict
from vitkit.data import Source
from vitkit.evaluation import Predictions, formatted, is_fraction
from vitkit.report import charts, gallery, results
from vitkit.report.charts import Line
from vitkit.report.page import corrections, page, tile, unreadable_section


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """Content of the report of a training run: log events, images, predictions, and the saved model.

    `events` are those of the run's log, `metric` selects the best model, and `selection` is "best" or "last".
    `data` names the training data and `split` says where the validation images come from; `config` is the run as JSON.
    `predictions` are those of `model` on the `validation` images, None if these have no labels.
    """

    name: str
    data: str
    split: str
    config: str
    metric: str
    selection: str
    events: list[JsonDict]
    training: Source
    validation: Source
    predictions: Predictions | None
    model: Checkpoint

    @property
    def parameters(self) -> int:
        """The number of parameters of the model."""
        return sum(parameter.numel() for parameter in self.model.model.parameters())

    def of(self, kind: str) -> list[JsonDict]:
        """Returns the log events of one kind, such as "step" or "evaluation"."""
        return [event for event in self.events if event["kind"] == kind]

    @property
    def step(self) -> int:
        """The training step at which the model was saved."""
        evaluations = self.of("evaluation")
        if self.selection == "last":
            return int(evaluations[-1]["step"])
        return int(max(evaluations, key=lambda event: event[self.metric])["step"])


def html(report: TrainingReport, links: Sequence[str] = ()) -> str:
    """Returns the report of a training run as one HTML document, with links to the prediction files."""
    parts = [head(report), curves(report)]
    if report.predictions is not None:
        parts += results.sections(report.validation, report.predictions, report.model, split="val", links=links)
    parts.append(unreadable_section([name for event in report.of("unreadable") for name in event["images"]]))
    return page(report.name, "\n".join([*parts, config(report)]), gallery.SCRIPT)


def head(report: TrainingReport) -> str:
    """Returns the head of the report: the title, a summary and the main metrics."""
    steps = report.of("step")
    start, end = report.events[0]["time"], report.events[-1]["time"]
    speeds = sorted(event["images_per_second"] for event in steps if event["images_per_second"])
    utilization = sorted(event["mfu"] for event in steps if "mfu" in event)
    mfu = f", {utilization[len(utilization) // 2]:.0%} MFU" if utilization else ""
    evaluations = len(report.of("evaluation"))
    metric = "accuracy" if report.metric == "top1.accuracy" else "metric"
    bias = (
        f" This model is the best of {evaluations} evaluations on these images, so its {metric} is slightly optimistic."
        if report.selection == "best" and evaluations > 1
        else ""
    )
    number = len(report.training.classes)
    independent = report.predictions is not None and report.predictions.task.problem_type.startswith("multi")
    kind = "with {} targets" if report.training.regression else "with {} labels" if independent else "of {} classes"
    kind = kind.format(number) if number != 1 else kind.format(number).removesuffix("s")
    outputs = kind if number else "without labels"
    tiles = [
        *main_tiles(report),
        tile(f"{report.step:,}", f"step of this model ({report.selection})"),
        tile(f"{report.parameters / 1e6:.3g} M", "parameters"),
        tile(duration(end - start), "training time"),
        tile(f"{speeds[len(speeds) // 2]:,.0f}" if speeds else "-", f"images/s{mfu}"),
    ]
    corrected = corrections(report.training, report.validation)
    return (
        f"<h1>{escape(report.name)}</h1>"
        f'<p class="lead">Trained on {len(report.training):,} images {outputs} from '
        f"<code>{escape(report.data)}</code>, evaluated on {len(report.validation):,} other images "
        f"({escape(report.split)}).{bias}{escape(stopped_early(report))}{escape(corrected)}</p>"
        f'<div class="tiles">{"".join(tiles)}</div>'
    )


def stopped_early(report: TrainingReport) -> str:
    """Returns a sentence on early stopping, or an empty string if the run did not stop early or was continued."""
    stops, steps = report.of("early_stop"), report.of("step")
    if not stops or (steps and steps[-1]["step"] > stops[-1]["step"]):
        return ""
    reason = str(stops[-1]["reason"])
    return f" Training {reason}."


def main_tiles(report: TrainingReport) -> list[str]:
    """Returns HTML boxes with the main metrics, or with the metric of the run if the images have no labels."""
    if report.predictions is None:
        value = next(event[report.metric] for event in report.of("evaluation") if event["step"] == report.step)
        return [tile(formatted(report.metric, value), report.metric, first=True)]
    return results.tiles(report.predictions, report.validation.classes, "validation ")


def curves(report: TrainingReport) -> str:
    """Returns a section with charts of the loss and of the metric of the run over the training steps."""
    steps, evaluations = report.of("step"), report.of("evaluation")
    if not steps or not evaluations:
        return ""
    loss = [(event["step"], event["loss"]) for event in steps]
    val_loss = [(event["step"], event["top1.loss"]) for event in evaluations if "top1.loss" in event]
    val_accuracy = [(event["step"], event[report.metric]) for event in evaluations]
    accuracy = [(event["step"], event["accuracy"]) for event in steps if "accuracy" in event]
    if report.metric != "top1.accuracy":
        accuracy = []  # another metric, which has no comparable value on training batches
    low = min(y for _, y in [*val_accuracy, *charts.smoothed(accuracy)])
    panels = [
        (
            "Loss",
            [
                Line("training", loss, "quiet"),
                Line("training, smoothed", charts.smoothed(loss), "train"),
                Line("validation", val_loss, "val", dots=True),
            ],
            {},
        ),
        (
            "Accuracy" if report.metric == "top1.accuracy" else report.metric,
            [
                Line("training", charts.smoothed(accuracy), "train"),
                Line("validation", val_accuracy, "val", dots=True),
            ],
            {"percent": True, "limits": (max(0.0, min(low, 0.9) - 0.02), 1.0)} if is_fraction(report.metric) else {},
        ),
    ]
    cards = "".join(
        f'<div class="card"><h3>{title}</h3>{charts.line_chart(lines, title=title, **options)}{_key(lines)}</div>'
        for title, lines, options in panels
    )
    return f'<h2>Training curves</h2><div class="pair">{cards}</div>'


def config(report: TrainingReport) -> str:
    """Returns a section with the config of the run and the library versions."""
    start = report.events[0]
    versions = f"torch {start['torch']}, Python {start['python']}, {start['device']}" if "torch" in start else ""
    summary = "<summary>Full config (config.json)</summary>"
    return f"<details>{summary}<p class='soft'>{versions}</p><pre>{escape(report.config)}</pre></details>"


def duration(seconds: float) -> str:
    """Formats a duration in seconds as text, such as "1 min 37 s"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


def _key(lines: Sequence[Line]) -> str:
    """Returns the legend of the lines in a chart."""
    names = {"train": ("rust", "training, on augmented images"), "val": ("blue", "validation")}
    shown = "".join(
        f'<span><i style="background:var(--{color})"></i>{name}</span>'
        for kind, (color, name) in names.items()
        if any(line.style == kind and line.points for line in lines)
    )
    return f'<p class="key">{shown}</p>'
