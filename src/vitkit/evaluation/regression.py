"""Errors of the predicted values of a regression, in the units of the targets."""

from dataclasses import dataclass

from vitkit.evaluation import ModelOutputs, Predictions
from vitkit.evaluation.requirements import EvaluationData

PROBLEM_TYPES = ("regression",)
FRACTIONS = False
METRICS = ("mae", "rmse", "r2")


@dataclass(frozen=True)
class TargetResult:
    """Errors of the predictions of one target. `r2` is 0 if all true values are equal."""

    name: str
    mae: float
    rmse: float
    r2: float


def check(data: EvaluationData) -> tuple[str, ...]:
    """Returns the names of the metrics, without any checks."""
    each = [f"{name} {metric}" for name in data.source.classes for metric in METRICS]
    return (*METRICS, "images", *(each if data.num_classes > 1 else ()))


def evaluate(subject: ModelOutputs) -> dict[str, float]:
    """Returns the mean absolute error `mae`, root mean squared error `rmse`, `r2` and the number of `images`.

    R2 is the fraction of the variance of the targets that the predictions explain. With several targets the metrics are
    means over targets, and each target has its own, such as `age mae`.
    """
    results = per_target(subject.predictions, subject.classes)
    metrics = {name: sum(getattr(each, name) for each in results) / len(results) for name in METRICS}
    metrics["images"] = float(subject.predictions.targets.shape[0])
    if len(results) > 1:
        for each in results:
            metrics |= {f"{each.name} {name}": getattr(each, name) for name in METRICS}
    return metrics


def per_target(predictions: Predictions, names: tuple[str, ...]) -> list[TargetResult]:
    """Returns the errors of the predictions for each target of a regression."""
    truth = predictions.targets.double()
    errors = predictions.scores - truth
    spread = (truth - truth.mean(dim=0)).square().sum(dim=0)
    columns = zip(names, errors.T, spread.tolist(), strict=True)
    return [
        TargetResult(
            name=name,
            mae=error.abs().mean().item(),
            rmse=error.square().mean().sqrt().item(),
            r2=1.0 - error.square().sum().item() / total if total else 0.0,
        )
        for name, error, total in columns
    ]
