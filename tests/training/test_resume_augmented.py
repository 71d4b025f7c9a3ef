"""A resumed run with all augmentations ends with the same bits, with any number of workers."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from test_resume import assert_equal, final, history, kill_at

from vitkit.config import override
from vitkit.data.augment import Augment
from vitkit.data.augment.crop import Crop
from vitkit.data.augment.erasing import Erasing
from vitkit.data.augment.mixing import Mixing
from vitkit.data.augment.photometric import Jitter
from vitkit.data.augment.randaugment import RandAugment
from vitkit.training import Interrupted, Run, RunFolder, train

EVERYTHING = Augment(
    crop=Crop(kind="tensorflow", area=(0.5, 1.0)),
    flip=True,
    three_augment=True,
    randaugment=RandAugment(layers=2, magnitude=5.0),
    jitter=Jitter(brightness=0.3, contrast=0.3, saturation=0.3),
    erasing=Erasing(probability=0.25),
    mixing=Mixing(mixup=0.8, cutmix=1.0),
    repeats=2,
)


# By default, test_resume.py resumes a run with RandAugment and mixing.
@pytest.mark.slow
@pytest.mark.parametrize(("step", "workers"), [(3, 2), (8, 1)])
def test_stopped_within_an_epoch_and_resumed_with_other_workers(
    small_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, workers: int
) -> None:
    run = small_run(grad_accum_steps=2, augment=EVERYTHING)
    train(run, tmp_path / "uninterrupted")
    folder = tmp_path / "resumed"
    with monkeypatch.context() as patch:
        kill_at(patch, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(override(run, {"hardware.workers": workers}), folder)
    train(run, folder)
    assert_equal(final(folder), final(tmp_path / "uninterrupted"))
    assert history(folder) == history(tmp_path / "uninterrupted")
    assert RunFolder(folder).run().augment == EVERYTHING
    # The augmentation does change the run.
    train(small_run(grad_accum_steps=2), tmp_path / "plain")
    assert history(tmp_path / "plain") != history(folder)
