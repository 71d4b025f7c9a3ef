"""FLOPs of a step are counted, the peak of the device is published or measured, and MFU is logged."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from vitkit import models
from vitkit.evaluation.flops import FlopCounter, exclude_recomputation, flops
from vitkit.models import vit
from vitkit.training import Run, train, utilization
from vitkit.training.events import read
from vitkit.training.utilization import Peak, published


def test_flops_of_a_linear_layer() -> None:
    layer, rows = nn.Linear(32, 48, bias=False), torch.randn(5, 32, requires_grad=True)
    with FlopCounter() as count:
        out = layer(rows)
        assert count.total == 2 * 5 * 32 * 48
        out.sum().backward()
    assert count.total == 3 * 2 * 5 * 32 * 48
    frozen = layer.requires_grad_(False)
    with FlopCounter() as count:
        frozen(rows.detach())
    assert count.total == 2 * 5 * 32 * 48


def test_flops_of_a_model_equal_those_of_torch() -> None:
    if torch.ops.aten._scaled_dot_product_flash_attention_for_cpu not in flop_registry:
        pytest.skip(f"torch {torch.__version__} does not count attention on a CPU")
    model = models.build(vit.TINY)
    images = torch.zeros(2, model.config.channels, *model.config.image_size)
    with FlopCounterMode(display=False) as theirs, torch.no_grad():
        model(images)
    assert flops(model) * 2 == theirs.get_total_flops()
    with FlopCounterMode(display=False) as theirs:
        model(images).sum().backward()
    with FlopCounter() as ours:
        model(images).sum().backward()
    assert ours.total == theirs.get_total_flops()
    # Recomputed operations are counted once.
    for block in model.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=exclude_recomputation)
    with FlopCounter() as resumed:
        model(images).sum().backward()
    assert resumed.total == ours.total


@pytest.mark.parametrize(
    ("name", "kind", "teraflops"),
    [
        ("NVIDIA H200", "bfloat16", 989.4),
        ("NVIDIA H100 PCIe", "bfloat16", 756.0),
        ("NVIDIA H100 80GB HBM3", "tf32", 494.7),
        ("NVIDIA A100-SXM4-80GB", "float32", 19.5),
        ("NVIDIA L40S", "float16", 362.1),
        ("Tesla T4", "bfloat16", None),
        ("NVIDIA A10G", "float16", None),
        ("A graphics card", "float32", None),
    ],
)
def test_published_peaks(name: str, kind: str, teraflops: float | None) -> None:
    found = published(name, kind)
    assert (found is None) == (teraflops is None)
    if found is not None and teraflops is not None:
        assert found.flops_per_second == teraflops * 1e12
        assert found.utilization(found.flops_per_second / 4, 0.5) == 0.5


def test_the_peak_of_a_cpu_is_measured() -> None:
    found = utilization.peak(torch.device("cpu"), "float32")
    assert found.flops_per_second > 1e8
    assert found.source.startswith("measured: float32 matrix product of 512 x 512, ")
    assert utilization.peak(torch.device("cpu"), "float32") is found


def test_a_run_logs_its_flops_and_resumes_without_counting_again(
    small_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitkit.training.launch.peak", lambda *_, **__: Peak(1e12, "given"))
    run = small_run(hardware__keep_checkpoints=9)
    log = train(run, tmp_path / "run").folder / "log.jsonl"
    events = read(log)
    (cost,) = (event for event in events if event["kind"] == "cost")
    model = models.build(small_run().model)
    assert 2.5 < cost["flops_per_image"] / flops(model) < 3.1
    (start,) = (event for event in events if event["kind"] == "start")
    assert (start["peak_flops"], start["peak_source"]) == (1e12, "given")
    steps = [event for event in events if event["kind"] == "step"]
    for event in steps:
        if event["images_per_second"]:
            expected = cost["flops_per_image"] * event["images_per_second"] / 1e12
            assert event["mfu"] == pytest.approx(expected, abs=1e-4)
        assert event["memory_gb"] > 0.01
    assert any("mfu" in event for event in steps)

    (tmp_path / "run" / "best").rename(tmp_path / "best")
    for checkpoint_folder in list((tmp_path / "run" / "checkpoints").iterdir()):
        if checkpoint_folder.name > "step-00000008":
            checkpoint_folder.rename(tmp_path / checkpoint_folder.name)
    monkeypatch.setattr("vitkit.training.loop.FlopCounter", None)  # fails if called
    train(run, tmp_path / "run")
    resumed = [event["loss"] for event in read(log) if event["kind"] == "step"]
    assert resumed == [event["loss"] for event in steps]

    # The TensorBoard files have the same values, and each repeated step once.
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    logged = {scalar.step: scalar.value for scalar in found.Scalars("step/loss")}
    assert len(found.Scalars("step/loss")) == len(logged) == 12
    assert [logged[event["step"]] for event in steps] == pytest.approx([event["loss"] for event in steps], rel=1e-6)
    assert [scalar.step for scalar in found.Scalars("evaluation/top1.accuracy")] == [5, 10, 12]
