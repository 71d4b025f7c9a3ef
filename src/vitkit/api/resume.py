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

    The data, the recipe and all settings come from the folder. A length is that of the whole run: a finished run of 500
    steps is extended by `steps=1000`. It continues from its last training checkpoint, with the learning rate schedule
    of the new length.

    Args:
        folder: Folder of the run, which `vitkit.train` or `vitkit.finetune` has written.
        steps: Length of the whole run in training steps. If no length is given, that of the run.
        epochs: Length of the whole run in epochs.
        minutes: Length of the whole run in minutes of wall time.
        patience: Stop after this number of evaluations without a better metric.
        device: Device to train on, such as `cuda:1`.
        parallel: Parallel training under torchrun: `ddp` or `fsdp`.
        settings: Other settings that a run can change, such as `{"hardware.workers": 4, "min_delta": 0.001}`.
        progress: Show the plan and the progress of the run on standard error.

    Raises:
        ValueError: The folder contains no run, the run is longer than the new length, or a setting cannot change.

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
