"""`vitkit finetune`."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


def finetune(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    *,
    data: str,
    out: Path,
    val: str | None = None,
    held_out: float = 0.2,
    resolution: int | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    rate: float | None = None,
    batch_size: int | None = None,
    part: Literal["full", "head", "lora"] = "full",
    seed: int = 0,
    set: tuple[str, ...] = (),  # noqa: A002 - the option's name
) -> None:
    """Teach a checkpoint your own classes.

    Gives it a new head for the classes found, trains, keeps the best model in OUT/best (`vitkit classify OUT/best
    photos/`) and shows in OUT/report.html where it errs. A run that was stopped goes on with the same command.

    Args:
        model: A checkpoint: a folder, a file of any dialect, or a hub id.
        data: What to learn from, as in folder:photos/ (with class folders, or train/ and val/ that hold them).
        out: The run folder to make.
        val: What to judge on, if not the data's own val split or a share held out.
        held_out: The share held out where the data has no split of its own.
        resolution: The side in pixels, a multiple of the patch size; the checkpoint's own if not given.
        steps: How many updates; by the number of pictures if not given (500, 10,000 or 20,000).
        epochs: The same in passes over the pictures.
        rate: The peak learning rate; by the number of pictures if not given.
        batch_size: Pictures in one update; by the number of pictures if not given.
        part: What learns: the full model, the head alone, or low-rank changes (LoRA) and the head.
        seed: Of the order and the changes of pictures.
        set: Further fields of the run as NAME=VALUE (average=0.999, optimizer.name=adamw).
    """
    from vitkit import config
    from vitkit.cli._outcomes import settings
    from vitkit.train import Result, events, train
    from vitkit.train.finetune import finetune as plan

    run = plan(
        model,
        data,
        val=val,
        held_out=held_out,
        resolution=resolution,
        steps=steps,
        epochs=epochs,
        rate=rate,
        batch_size=batch_size,
        part=part,
        seed=seed,
    )
    run = config.override(run, settings(set))
    result: Result = train(run, out, console=events.console(), keep_memory=True)
    if result.main:
        print(f"{out / 'best'}: {run.score} {result.score:.4f}, of step {result.step}; see {out / 'report.html'}")
