"""Hardware settings do not change results beyond rounding; invalid runs are rejected; loggers get the metrics."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vitkit.data.sources.digits import Digits
from vitkit.training import Run, checks, events, train
from vitkit.training.events import read


def losses(run: Run, folder: Path) -> list[float]:
    train(run, folder)
    return [event["loss"] for event in read(folder / "log.jsonl") if event["kind"] == "step"]


def test_activation_checkpointing_changes_no_bit(small_run: Callable[..., Run], tmp_path: Path) -> None:
    plain = losses(small_run(steps=6), tmp_path / "plain")
    assert losses(small_run(steps=6, hardware__activation_checkpointing=True), tmp_path / "again") == plain


def test_bfloat16_losses_are_close_to_float32(small_run: Callable[..., Run], tmp_path: Path) -> None:
    plain = losses(small_run(steps=6), tmp_path / "plain")
    low = losses(small_run(steps=6, precision="bfloat16"), tmp_path / "low")
    assert low == pytest.approx(plain, rel=0.02)
    assert low != plain


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # of torch.compile in shape checks
def test_losses_of_compiled_blocks_are_equal(small_run: Callable[..., Run], tmp_path: Path) -> None:
    no_dropout = {f"model__{name}": 0.0 for name in ("dropout", "attention_dropout", "stochastic_depth")}
    plain = losses(small_run(steps=4, **no_dropout), tmp_path / "plain")
    compiled = losses(small_run(steps=4, hardware__compile=True, **no_dropout), tmp_path / "compiled")
    assert compiled == pytest.approx(plain, rel=1e-4)


@pytest.mark.filterwarnings("ignore:Please use the new API settings:UserWarning")  # once, in torch 2.9
def test_the_tf32_setting_is_restored(small_run: Callable[..., Run], tmp_path: Path) -> None:
    before = torch.get_float32_matmul_precision()
    train(small_run(steps=1, schedule__warmup=0, hardware__tf32=True), tmp_path / "run")
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "float16"}, "float16 training needs a GPU"),
        ({"hardware__loggers": ["tensorbord"]}, "unknown logger 'tensorbord'"),
        ({"data__source": ""}, "has no training data; set --data"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"tuning__freeze": ["*"]}, "no parameter is trainable"),
        ({"model__num_classes": 7}, "the model has 7 classes"),
        ({"model__image_size": [16, 16]}, "but the processor has"),
    ],
)
def test_an_invalid_run_is_rejected_before_the_first_step(
    small_run: Callable[..., Run], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(small_run(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_little_disk_space_is_rejected(
    small_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match="the run needs about"):
        train(small_run(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_label_out_of_range_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Digits, "label", lambda self, index: 10 if index == 5 else 3)
    with pytest.raises(ValueError, match="image 5 has the label 10, but the classes are 0 to 9"):
        checks.check_labels(Digits())


def test_loggers_receive_metrics(small_run: Callable[..., Run], tmp_path: Path) -> None:
    logged: list[tuple[str, int, dict[str, float]]] = []

    class Memory:
        def log(self, kind: str, step: int, values: dict[str, float]) -> None:
            logged.append((kind, step, values))

        def close(self) -> None:
            logged.append(("close", 0, {}))

    with events.Events(tmp_path / "log.jsonl", total=2, batch_size=4, every=1, loggers=[Memory()]) as bar:
        bar.step(1, {"loss": 2.0})
        bar.write("start", 1, torch="2")
    (kind, step, values), end = logged
    assert (kind, step, end) == ("step", 1, ("close", 0, {}))
    assert values == {"loss": 2.0, "images_per_second": 0.0, "memory_gb": values["memory_gb"]}
    assert events.memory_in_use() > 10_000_000
