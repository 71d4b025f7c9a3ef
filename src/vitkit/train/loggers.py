"""Other places that scalars of a run are told to, where they are installed: TensorBoard, Weights & Biases, MLflow."""

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
    """Event files in the folder `tensorboard` of the run."""

    def __init__(self, run: Run, folder: Path):
        self.writer = _imported("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder / "tensorboard"))

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
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def opened(run: Run, folder: Path) -> tuple[Logger, ...]:
    """The loggers that `machine.loggers` names; ImportError with the line to type where one is not installed."""
    unknown = [name for name in run.machine.loggers if name not in KINDS]
    if unknown:
        raise ValueError(f"unknown logger '{unknown[0]}'; there is {', '.join(KINDS)}")
    return tuple(KINDS[name](run, folder) for name in run.machine.loggers)


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"machine.loggers names {package}, which is not installed: pip install {package}") from error
