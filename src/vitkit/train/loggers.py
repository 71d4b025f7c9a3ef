"""Where scalars of a run are told beside the log: TensorBoard always, Weights & Biases and MLflow on request."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from vitkit.train import run as runs
from vitkit.train.run import Run


class Logger(Protocol):
    """Takes the scalars of a step."""

    def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """`kind` is step or evaluation."""

    def close(self) -> None:
        """Nothing comes after."""


class TensorBoard:
    """Event files in the folder `tensorboard` of the run; a run that goes on hides what was told after its `step`."""

    def __init__(self, folder: Path, step: int = 0):
        from torch.utils.tensorboard.writer import SummaryWriter  # slow to import, and not needed for --help

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Adds each under its kind."""
        for name, value in values.items():
            self.writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Writes what is held back."""
        self.writer.close()


class WeightsAndBiases:
    """A run of the same name, found again by its folder when it goes on."""

    def __init__(self, run: Run, folder: Path):
        module = _imported("wandb", "wandb")
        name = folder.resolve().name
        self.run = module.init(
            project="vitkit", name=name, id=name, resume="allow", dir=str(folder), config=runs.to_dict(run)
        )

    def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Adds each under its kind."""
        self.run.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Ends the run there."""
        self.run.finish()


class MLflow:
    """A run of the same name at the tracking address that MLflow is set to."""

    def __init__(self, run: Run, folder: Path):
        self.module = _imported("mlflow", "mlflow")
        self.module.set_experiment("vitkit")
        self.module.start_run(run_name=folder.resolve().name)

    def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Adds each under its kind."""
        self.module.log_metrics({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Ends the run there."""
        self.module.end_run()


KINDS: dict[str, Callable[[Run, Path], Logger]] = {
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def check_loggers(run: Run) -> None:
    """Raises ValueError for an unknown logger, and ImportError with the line to type for one that is not installed."""
    unknown = [name for name in run.machine.loggers if name not in KINDS]
    if unknown:
        known = f"there is {', '.join(KINDS)}, and TensorBoard's files are always written"
        raise ValueError(f"unknown logger '{unknown[0]}'; {known}")
    for name in run.machine.loggers:
        _imported(name, name)


def open_loggers(run: Run, folder: Path, step: int = 0) -> tuple[Logger, ...]:
    """TensorBoard, and the loggers that `machine.loggers` names, for a run that has taken `step` steps; it has passed
    `refuse`.
    """
    asked = tuple(KINDS[name](run, folder) for name in run.machine.loggers)
    return (TensorBoard(folder, step), *asked)


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"machine.loggers names {package}, which is not installed: pip install {package}") from error
