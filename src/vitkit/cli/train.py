"""The `vitkit train` command."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


def train(
    recipe: Annotated[Positional[str], arg(metavar="RECIPE")] = "",
    *,
    out: Path | None = None,
    data: str | None = None,
    val: str | None = None,
    init_from: str | None = None,
    max_pixels: int | None = None,
    max_bytes: int | None = None,
    set: tuple[str, ...] = (),  # noqa: A002 - the option's name
    parallel: Literal["none", "ddp", "fsdp"] | None = None,
    backend: Literal["torch", "jax"] = "torch",
    repeat: Annotated[Path | None, arg(name="from", metavar="CONFIG")] = None,
) -> None:
    """Run a training recipe.

    Writes a run folder: config.json, log.jsonl, checkpoints/, best/ and report.html. The same command resumes a
    stopped run, and continues a finished run with more steps or epochs. On several GPUs: `torchrun --nproc-per-node 8
    -m vitkit train RECIPE --parallel ddp`.

    Args:
        recipe: Name of a recipe, as listed by `vitkit recipes`.
        out: Output folder of the training run. If not set: runs/RECIPE.
        data: Training data, such as parquet:/data/imagenet. If not set: the training data of the recipe.
            The model gets one output per class. For pre-training recipes, the images need no labels.
        val: Validation data. If not set: the val split of the training data.
        init_from: Checkpoint to initialize the weights from. If not set: the checkpoint of the recipe, if there is one.
        max_pixels: Largest accepted image, in pixels (width x height). If not set: 120,000,000, or the value in --from.
        max_bytes: Largest accepted image file, in bytes. If not set: 200,000,000, or the value in --from.
        set: Override settings of the run config as NAME=VALUE, such as optimizer.lr=1e-3 ema=0.999.
        parallel: Parallel training under torchrun: ddp (model replicas) or fsdp (sharded parameters).
        backend: Training framework: PyTorch, or JAX for supervised training of plain ViTs (pip install 'vitkit[jax]').
        repeat: Path of the config.json file of a run to repeat, instead of the name of a recipe.
    """
    from vitkit import config
    from vitkit.cli._outcomes import data_limits, report_unreadable, settings
    from vitkit.recipes import recipe as by_name
    from vitkit.regular import read_text
    from vitkit.training import Result, events
    from vitkit.training import run as runs
    from vitkit.training import train as go
    from vitkit.training.adapt import adapt

    if bool(recipe) == (repeat is not None):
        raise ValueError("give either the name of a recipe (`vitkit recipes`) or --from with the config.json of a run")
    run = by_name(recipe) if repeat is None else runs.from_json(read_text(repeat))
    given = {"data.source": data, "data.val": val, "init_from": init_from, "hardware.parallel": parallel}
    changes = {name: value for name, value in given.items() if value is not None}
    changes |= data_limits(max_pixels, max_bytes) | settings(set)
    run = config.override(run, changes)
    if "data.source" in changes:
        run, notes = adapt(run, changes)
        print("".join(f"{note}\n" for note in notes), end="", file=sys.stderr)
    folder = out or Path("runs") / run.name
    if backend == "jax":
        from vitkit.jax import run as jax_run

        fitted = jax_run.train(run, folder, report=lambda row: print(_row(row), flush=True))
        report_unreadable(fitted.unreadable, folder / "log.jsonl")
        print(f"{folder / 'best'}: {_row(fitted.log[-1])}")
        return
    result: Result = go(run, folder, console=events.console(), keep_memory=True)
    if result.main:
        note = f" ({result.note})" if result.note else ""
        metric = f"{run.metric} {result.score:.4f} at step {result.step}{note}"
        report_unreadable(result.unreadable, folder / "report.html")
        print(f"{folder / 'best'}: {metric}; see {folder / 'report.html'}")


def _row(row: dict[str, float | list[str]]) -> str:
    return "   ".join(f"{name} {value:.4g}" for name, value in row.items() if not isinstance(value, list))
