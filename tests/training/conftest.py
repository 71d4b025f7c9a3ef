"""A small run that takes a fraction of a second to train."""

from collections.abc import Callable, Iterator

import pytest
import torch

from vitkit import config
from vitkit.data.augment import Augment
from vitkit.data.processor import Processor
from vitkit.data.sources.digits import Digits
from vitkit.models import vit
from vitkit.objectives import supervised
from vitkit.training import Data, Hardware, Run
from vitkit.training.optim import Optimizer
from vitkit.training.schedule import Schedule

MODEL = vit.Config(
    image_size=(8, 8),
    patch_size=(4, 4),
    width=16,
    depth=2,
    num_heads=2,
    mlp_width=32,
    num_classes=10,
    dropout=0.1,
    attention_dropout=0.1,
    stochastic_depth=0.1,
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Uses one thread, which is faster for small models.

    Module scope, because runs that are compared bit by bit need the same number of threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses the first 240 digits: 191 for training, so that twelve batches of 28 cross an epoch, and 49 held out."""
    monkeypatch.setattr(Digits, "__len__", lambda self: 240)


@pytest.fixture(scope="session")
def small_run() -> Callable[..., Run]:
    """Twelve steps over two epochs of digits with dropout and augmentation; `a__b=1` sets the field `a.b`."""

    def make(**changes: object) -> Run:
        run = Run(
            name="small",
            model=MODEL,
            objective=supervised.Config(label_smoothing=0.1),
            data=Data(source="digits", held_out=0.2),
            processor=Processor.squash(8, interpolation="bicubic"),
            augment=Augment(rotate=10.0, shift=0.1, zoom=0.1, flip=True),
            optimizer=Optimizer(lr=1e-2),
            schedule=Schedule(warmup=3),
            batch_size=28,
            steps=12,
            evaluate_every=5,
            hardware=Hardware(device="cpu", save_every=4, log_every=1),
        )
        return config.override(run, {name.replace("__", "."): value for name, value in changes.items()})

    return make
