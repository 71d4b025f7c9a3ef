"""A step synchronizes once with the device and once with other processes, and once more each where it logs."""

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from slow_cases import slow_except
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vitkit import distributed, models
from vitkit.data.loader import Batch
from vitkit.models import vit
from vitkit.objectives import beit, dino
from vitkit.training import Run, train
from vitkit.training.events import Events, read
from vitkit.training.loop import fit
from vitkit.training.metrics import Metrics
from vitkit.training.setup import build_training

STEPS, EVERY = 12, 5
THIRD = torch.tensor(0.3).item()  # as a float32 buffer rounds it
LOGGED = [1, 5, 10]


class Reads(TorchDispatchMode):
    """Counts copies of a scalar from the device (`item`, `float`, `bool`); the fixture `lists` counts `tolist`."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.fixture
def lists(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of every tensor that `tolist` copied from its device."""
    found: list[int] = []
    original = Tensor.tolist

    def tolist(self: Tensor) -> Any:
        found.append(self.numel())
        return original(self)

    monkeypatch.setattr(Tensor, "tolist", tolist)
    return found


class Group:
    """Imitates a process group of two processes with the same values."""

    ReduceOp = SimpleNamespace(MAX="max")

    def __init__(self) -> None:
        self.reduced: list[int] = []

    def all_reduce(self, value: Tensor) -> None:
        self.reduced.append(value.numel())
        value.mul_(2)


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Group:
    group = Group()
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "_group", lambda: group)
    monkeypatch.setattr(distributed, "_own_device", lambda: torch.device("cpu"))
    return group


def batches(run: Run) -> list[Batch]:
    torch.manual_seed(0)
    targets = torch.eye(10)[torch.arange(28) % 10]
    return [Batch(torch.randn(28, 1, 8, 8), targets, ("",) * 28) for _ in range(STEPS)]


def trained(run: Run, folder: Path, watch: AbstractContextManager[Any] | None = None) -> list[dict[str, Any]]:
    """Trains with logging only and returns the logged steps; enters `watch` after initialization."""
    training = build_training(run, STEPS, torch.device("cpu"))
    folder.mkdir(exist_ok=True)
    with Events(folder / "log.jsonl", total=STEPS, batch_size=28, every=EVERY) as events:

        def after(scalars: Metrics, batch: Batch) -> bool:
            events.step(training.step, scalars)
            return False

        with watch or nullcontext():
            fit(training, iter(batches(run)), after)
    return [event for event in read(folder / "log.jsonl") if event["kind"] == "step"]


def run_of(make: Callable[..., Run], grad_accum_steps: int = 1) -> Run:
    return make(model__channels=1, grad_accum_steps=grad_accum_steps, steps=STEPS)


@pytest.mark.parametrize("grad_accum_steps", slow_except([1, 2, 7], 2))
def test_the_device_is_read_once_per_step_and_once_more_per_logged_step(
    grad_accum_steps: int, small_run: Callable[..., Run], tmp_path: Path, lists: list[int]
) -> None:
    reads = Reads()
    logged = trained(run_of(small_run, grad_accum_steps), tmp_path / "run", reads)
    assert [event["step"] for event in logged] == LOGGED
    assert reads.number == 0
    lists = [length for length in lists if length < 4]  # without those of initialization
    # Whether loss and gradient are finite, in every step; loss, accuracy and gradient norm in logged steps.
    assert sorted(lists) == [2] * STEPS + [3] * len(LOGGED)


@pytest.mark.parametrize("grad_accum_steps", slow_except([1, 2, 7], 2))
def test_processes_reduce_one_vector_per_step_and_one_more_per_logged_step(
    grad_accum_steps: int, small_run: Callable[..., Run], tmp_path: Path, two: Group
) -> None:
    logged = trained(run_of(small_run, grad_accum_steps), tmp_path / "run")
    assert [event["step"] for event in logged] == LOGGED
    assert two.reduced.count(2) == STEPS + len(LOGGED)  # the flags of a step; loss and accuracy of a logged one
    assert len(two.reduced) == STEPS + len(LOGGED)


def test_a_run_reduces_two_vectors_per_step_with_gradient_accumulation(
    small_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values that are not finite before an update; unreadable images and a request to stop after it."""
    counts: dict[str, int] = {}

    def counted(name: str) -> None:
        original = getattr(distributed, name)

        def call(*args: Any) -> Any:
            counts[name] = counts.get(name, 0) + 1
            return original(*args)

        monkeypatch.setattr(distributed, name, call)

    for name in ("all_reduce_sum", "mean", "any_true"):
        counted(name)
    train(small_run(grad_accum_steps=4, hardware__log_every=EVERY, hardware__save_every=100), tmp_path / "run")
    evaluations = [event for event in read(tmp_path / "run" / "log.jsonl") if event["kind"] == "evaluation"]
    # One more before the first step, about changes of the config.
    assert 1 < counts.pop("any_true") == len(evaluations) + 1 < STEPS
    assert counts == {"all_reduce_sum": 2 * STEPS, "mean": len(LOGGED)}


def test_logged_metrics_are_means_over_parts_and_processes(two: Group) -> None:
    metrics = Metrics(
        {"loss": torch.tensor(0.1), "accuracy": torch.tensor(0.25, dtype=torch.bfloat16)},
        {"lr": 1e-3, "grad_norm": torch.tensor(2.5)},
    )
    assert two.reduced == []
    assert list(metrics) == ["loss", "accuracy", "lr", "grad_norm"]
    assert len(metrics) == 4
    assert "loss" in metrics
    assert dict(metrics) == {"loss": torch.tensor(0.1).item(), "accuracy": 0.25, "lr": 1e-3, "grad_norm": 2.5}
    assert list(metrics.values())[2:] == [1e-3, 2.5]
    assert two.reduced == [2]  # once, without the values that are equal in all processes
    with pytest.raises(KeyError):
        metrics["nothing"]


def test_float64_metrics_keep_their_precision() -> None:
    value = torch.tensor(1 / 3, dtype=torch.float64)
    assert Metrics({"loss": value, "other": torch.tensor(0.1)}, {})["loss"] == 1 / 3
    assert math.isnan(Metrics({"loss": torch.tensor(math.nan)}, {})["loss"])


def test_a_nonfinite_value_of_another_process_is_named_in_all(
    small_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = build_training(run_of(small_run), STEPS, torch.device("cpu"))
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda *flags: [1, 0])  # the loss, in one process
    with pytest.raises(ValueError, match="the loss is not finite in step 0; no weights were updated"):
        fit(training, iter(batches(training.run)), lambda scalars, batch: False)


def test_objectives_read_their_progress_without_the_device() -> None:
    backbone = models.build(vit.TINY)
    made = [
        dino.build(dino.Config(outputs=8, hidden=8, bottleneck=4), backbone),
        beit.build(beit.Config(codes=8, code_width=4, hidden=8), models.build(vit.TINY)),
    ]
    for objective in made:
        objective.after_step(0.3)
        with Reads() as reads:
            assert objective.done == THIRD
            assert objective.phase in (0, 1)
        assert reads.number == 0
        other = copy.deepcopy(objective)
        other.after_step(0.7)
        other.load_state_dict(objective.state_dict())
        assert other.done == objective.done == objective.state_dict()["progress"].item()
