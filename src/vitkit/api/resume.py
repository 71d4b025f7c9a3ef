"""`vitkit.resume`: resumes a stopped run, or extends a finished one."""

from pathlib import Path

from vitkit.api._runs import Name, Parallel, Settings, TrainedRun, chosen, start


def resume(
    folder: Name,
    *,
    steps: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    patience: int | None = None,
    device: str | None = None,
    parallel: Parallel | None = None,
    settings: Settings | None = None,
    progress: bool = False,
) -> TrainedRun:
    """Resumes a stopped run, or extends a finished one, and returns the finished run.

    The data, the recipe and all settings are read from the folder. A new length is the total length of the run,
    including the steps that are already trained: `steps=1000` extends a finished run of 500 steps by another 500. The
    run continues from its last training checkpoint, with the learning rate schedule of the new length.

    Args:
        folder: Run folder that was written by `vitkit.train` or `vitkit.finetune`.
        steps: Total length of the run in training steps. If no length is given, the length does not change.
        epochs: Total length of the run in epochs.
        minutes: Total length of the run in minutes of wall time.
        patience: Stop after this number of evaluations without an improvement in the metric.
        device: Device to train on, such as `cuda:1`.
        parallel: Parallel training under torchrun: `ddp` or `fsdp`.
        settings: Other settings to change, such as `{"hardware.workers": 4, "min_delta": 0.001}`.
        progress: Show the plan and the progress of the run on standard error.

    Raises:
        ValueError: The folder contains no run, the trained steps exceed the new length, or a setting cannot be changed.

    Example:
        >>> run = vitkit.resume("runs/digits")
        >>> run = vitkit.resume("runs/digits", steps=2400)
        >>> run.score
        0.98...
    """
    from vitkit.training.extend import resumed

    lengths = {"steps": steps, "epochs": epochs, "minutes": minutes}
    changes = chosen(settings, patience=patience, device=device, parallel=parallel, **lengths)
    return start(resumed(Path(folder), changes=changes), folder, progress=progress)
