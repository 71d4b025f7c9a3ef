"""The `vitkit train` command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from vitkit.cli._options import TrainingOptions

if TYPE_CHECKING:
    from vitkit.training import Run


def train(
    recipe: Annotated[Positional[str], arg(metavar="RECIPE")] = "",
    *,
    model: str | None = None,
    init_from: str | None = None,
    backend: Literal["torch", "jax"] = "torch",
    repeat: Annotated[Path | None, arg(name="from", metavar="CONFIG")] = None,
    training: TrainingOptions = TrainingOptions(),  # noqa: B008 - frozen
) -> None:
    """Train a model by a recipe, or an architecture on any data.

    `vitkit train RECIPE` trains a model by a recipe that `vitkit recipes` lists. `vitkit train --model vit-ti/16 --data
    photos/` trains an architecture from random initial weights. `vitkit train --resume RUN` resumes or extends a run.
    The other options override settings of the recipe.

    Writes a run folder: config.json, log.jsonl, checkpoints/, best/, report.html and predictions.csv. The same command
    resumes a stopped run, and extends a finished run if --steps, --epochs or --minutes is larger. On several GPUs:
    `torchrun --nproc-per-node 8 -m vitkit train RECIPE --parallel ddp`.

    Args:
        recipe: Name of a recipe, as listed by `vitkit recipes`.
        model: Architecture, as listed by `vitkit models`, or its name in timm or transformers.
        init_from: Checkpoint to initialize the weights from. If not set: the checkpoint of the recipe, if there is one.
        backend: Training framework: PyTorch, or JAX for supervised training of plain ViTs (pip install 'vitkit[jax]').
        repeat: Path of the config.json file of a run to repeat, instead of the name of a recipe.
    """
    from vitkit.api.train import train as start
    from vitkit.cli._outcomes import finished, resumed, training_arguments
    from vitkit.regular import read_text
    from vitkit.training import run as runs

    named = {"RECIPE": recipe, "--model": model, "--init-from": init_from, "--from": repeat}
    if training.resume is not None:
        finished(resumed(training, named))
        return
    if recipe and repeat is not None:
        raise ValueError(f"give either the name of a recipe or --from; got '{recipe}' and '{repeat}'")
    if not recipe and repeat is None and model is None:
        raise ValueError(
            "give the name of a recipe (`vitkit recipes`), --model with --data, --resume with a run folder, or "
            "--from with the config.json of a run"
        )
    found = recipe or None if repeat is None else runs.from_json(read_text(repeat))
    options: dict[str, Any] = training_arguments(training) | {"model": model, "init_from": init_from}
    if backend == "jax":
        _train_with_jax(found, options)
    else:
        finished(start(found, **options, progress=True))


def _train_with_jax(recipe: "str | Run | None", options: dict[str, Any]) -> None:
    from vitkit.api._runs import recipe_run
    from vitkit.cli._outcomes import report_unreadable
    from vitkit.jax import run as jax_run

    run, folder = recipe_run(recipe, **options)
    fitted = jax_run.train(run, folder, report=lambda row: print(_row(row), flush=True))
    report_unreadable(fitted.unreadable, folder / "log.jsonl")
    print(f"{folder / 'best'}: {_row(fitted.log[-1])}")


def _row(row: dict[str, float | list[str]]) -> str:
    return "   ".join(f"{name} {value:.4g}" for name, value in row.items() if not isinstance(value, list))
