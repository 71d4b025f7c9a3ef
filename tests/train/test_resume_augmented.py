"""A run with every change to its pictures that there is ends with the same bits, stopped or not, whoever reads them."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from test_resume import assert_equal, final, kill_at, story

from vitkit.config import override
from vitkit.data.augment import Augment
from vitkit.data.augment.crop import Crop
from vitkit.data.augment.erasing import Erasing
from vitkit.data.augment.mixing import Mixing
from vitkit.data.augment.photometric import Jitter
from vitkit.data.augment.randaugment import RandAugment
from vitkit.train import Interrupted, Run, RunFolder, train

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


def test_stopped_in_the_middle_of_an_epoch_and_read_by_others(
    small_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run(grad_accum_steps=2, augment=EVERYTHING)
    train(run, tmp_path / "whole")
    for step, workers in ((3, 2), (8, 1)):
        folder = tmp_path / str(step)
        with monkeypatch.context() as patch:
            kill_at(patch, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
            with pytest.raises(Interrupted):
                train(override(run, {"hardware.workers": workers}), folder)
        train(run, folder)
        assert_equal(final(folder), final(tmp_path / "whole"))
        assert story(folder) == story(tmp_path / "whole")
    assert RunFolder(folder).run().augment == EVERYTHING
    # It is the pictures that make the difference.
    train(small_run(grad_accum_steps=2), tmp_path / "plain")
    assert story(tmp_path / "plain") != story(folder)
