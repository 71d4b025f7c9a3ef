"""Resumes or extends a run from its folder, which contains the data source, the recipe and all settings."""

from collections.abc import Mapping
from pathlib import Path

from vitkit import config as configs
from vitkit.logs import LOGGER
from vitkit.training.run import CHANGEABLE, CHANGEABLE_WITH_LENGTH, LENGTH, Run, RunFolder


def resumed(
    folder: str | Path,
    *,
    steps: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    changes: Mapping[str, object] | None = None,
) -> Run:
    """Returns the run in a folder, for `train(resumed(folder), folder)`, with a new length if one is given.

    `steps`, `epochs` and `minutes` are total lengths of the run, including the training so far: `steps=1000` extends a
    run of 500 steps by another 500. The run continues from its last training checkpoint. From the next step, the
    learning rate follows the schedule of the new length. For example, if the length of a finished run with a cosine
    schedule is doubled, the learning rate continues at half of its peak. A warm-up that is not shorter than the new
    `steps` becomes a tenth of them.

    `changes` are other settings to change, such as `{"patience": 3, "hardware.workers": 4}`. Raises ValueError if the
    folder contains no run, several lengths are given, or a setting cannot be changed in a resumed run.
    """
    run = RunFolder(Path(folder)).run()
    given = {"steps": steps, "epochs": epochs, "minutes": minutes}
    given = {name: value for name, value in given.items() if value is not None}
    changes = dict(changes or {})
    doubled = sorted(given.keys() & changes.keys())
    if doubled:
        raise ValueError(f"the setting '{doubled[0]}' is given twice; give it once")
    changes |= given
    allowed = (*CHANGEABLE, *CHANGEABLE_WITH_LENGTH, "hardware.")
    fixed = [name for name in changes if not name.startswith(allowed)]
    if fixed:
        raise ValueError(
            f"'{fixed[0]}' cannot be changed in a resumed run, which can change only "
            f"{', '.join((*LENGTH, *CHANGEABLE, 'hardware'))}; start another run in another folder"
        )
    lengths = {name: value for name, value in changes.items() if name in LENGTH and value not in (None, "none")}
    if lengths:  # another length replaces the one in the folder
        changes = {**dict.fromkeys(LENGTH), **changes}
    run = configs.override(run, changes)
    warmup = run.schedule.warmup
    if run.steps is not None and warmup >= run.steps > 1 and "schedule.warmup" not in changes:
        # The warm-up in the folder belongs to a longer run, or was shortened to fit into minutes.
        LOGGER.info(
            "schedule.warmup is %d instead of %d, because the run has %d steps", run.steps // 10, warmup, run.steps
        )
        run = configs.override(run, {"schedule.warmup": run.steps // 10})
    if run.epochs is not None and getattr(run.objective, "epochs", run.epochs) != run.epochs:
        run = configs.override(run, {"objective.epochs": run.epochs})
    return run
