"""Running statistics of batch norms in training: averaged over steps and processes, frozen with their parameters."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from two_processes import Job, ends, run_in_two

from vitkit import checkpoints, distributed, models
from vitkit.config import override
from vitkit.layers import BatchNorm
from vitkit.models import resnet
from vitkit.training import Run, train, tuning
from vitkit.training.checkpointing import saving
from vitkit.training.loop import average_statistics
from vitkit.training.schedule import EMA
from vitkit.training.setup import build_training, evaluation_model
from vitkit.training.tuning import Tuning


@pytest.fixture
def resnet_run(small_run: Callable[..., Run]) -> Callable[..., Run]:
    def make(**changes: Any) -> Run:
        config = replace(resnet.TINY, image_size=(16, 16), stem_width=4, widths=(8, 12), num_classes=10)
        fixed = {"schedule__warmup": 0, "schedule__decay": "constant", "optimizer__lr": 1e-3}
        run = small_run(**{**fixed, **changes})
        return replace(run, model=config, processor=replace(run.processor, size=(16, 16)))

    return make


def statistics(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {name: each for name, each in state.items() if "running_" in name or name.endswith("num_batches_tracked")}
    assert found
    return found


def weights(folder: Path, part: str = "objective") -> dict[str, torch.Tensor]:
    saved = saving.load_newest(folder / "checkpoints")
    assert saved is not None
    return saved["training"][part]


def test_batch_norm_equals_torch_in_training_and_evaluation() -> None:
    torch.manual_seed(0)
    ours, theirs = BatchNorm(5), nn.BatchNorm2d(5)
    for _ in range(3):
        x = 3 * torch.randn(4, 5, 6, 7) + 1
        torch.testing.assert_close(ours(x), theirs(x), atol=0, rtol=0)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(one, other) for one, other in zip(ours.buffers(), theirs.buffers(), strict=True))
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
    lines = torch.randn(4, 5, 6)
    torch.testing.assert_close(ours(lines), theirs(lines[..., None])[..., 0])


def test_a_frozen_batch_norm_stays_in_evaluation_mode() -> None:
    model = models.build(resnet.TINY)
    model.stem.norm.freeze()
    model.train()
    assert not model.stem.norm.training
    assert model.stages[0].blocks[0].norm1.training
    before = model.stem.norm.running_mean.clone()
    model(torch.randn(2, 3, 40, 40))
    assert torch.equal(model.stem.norm.running_mean, before)


def test_one_value_per_channel_is_rejected_in_training_mode_only() -> None:
    model = models.build(replace(resnet.TINY, image_size=(8, 8)))
    image = torch.randn(1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"got one value per channel.*use at least 2 images per process"):
        model.train()(image)
    assert model.eval()(image).isfinite().all()
    assert model.train()(torch.randn(2, 3, 8, 8)).isfinite().all()


@pytest.mark.parametrize(
    ("chosen", "moves"),
    [
        (Tuning(), lambda name: True),
        (Tuning(head_only=True), lambda name: False),
        (Tuning(freeze=("stem.*", "stages.0.*")), lambda name: name.startswith("stages.1.")),
        (Tuning(freeze=("*.norm1.weight",)), lambda name: True),
    ],
    ids=["full", "head", "first stages", "scales"],
)
def test_statistics_of_frozen_layers_do_not_change(chosen: Tuning, moves: Callable[[str], bool]) -> None:
    torch.manual_seed(0)
    model = models.build(resnet.TINY)
    tuning.apply(chosen, model)
    before = {name: each.clone() for name, each in statistics(model.state_dict()).items()}
    model.train()(torch.randn(4, 3, 40, 40)).sum().backward()
    moved = {name for name, each in statistics(model.state_dict()).items() if not torch.equal(each, before[name])}
    assert moved == {name for name in before if moves(name)}


def test_head_tuning_of_a_run_leaves_the_backbone_bit_for_bit(resnet_run: Callable[..., Run], tmp_path: Path) -> None:
    train(resnet_run(steps=2, evaluate_every=2), tmp_path / "first")
    train(
        resnet_run(
            steps=3, tuning__head_only=True, init_from=str(tmp_path / "first" / "best"), init_head="zeros", ema=0.5
        ),
        tmp_path / "second",
    )
    one, other = (checkpoints.load(tmp_path / name / "best").model.state_dict() for name in ("first", "second"))
    changed = {name for name in one if not torch.equal(one[name], other[name])}
    assert changed == {"head.weight", "head.bias"}


def test_the_moving_average_has_statistics_too() -> None:
    torch.manual_seed(0)
    model = models.build(resnet.TINY).train()
    ema = EMA(model, 0.9)
    expected = {name: each.clone() for name, each in model.state_dict().items() if each.is_floating_point()}
    assert ema.values.keys() == expected.keys()
    for step in range(1, 4):
        model(torch.randn(4, 3, 40, 40))
        ema.update(model, step)
        k = min(0.9, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            if name in expected:
                expected[name] = k * expected[name] + (1 - k) * tensor
    for name, tensor in ema.values.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-5)
    assert not torch.equal(ema.values["stem.norm.running_var"], model.stem.norm.running_var)


def test_the_evaluated_model_has_the_averaged_statistics(resnet_run: Callable[..., Run]) -> None:
    training = build_training(resnet_run(ema=0.9), 12, torch.device("cpu"))
    assert training.ema is not None
    training.ema.values["stem.norm.running_mean"].fill_(7)
    assert (evaluation_model(training).stem.norm.running_mean == 7).all()
    assert (training.objective.backbone.stem.norm.running_mean == 0).all()


def test_a_stopped_run_resumes_bit_for_bit(resnet_run: Callable[..., Run], tmp_path: Path) -> None:
    run = resnet_run(ema=0.9, steps=4)
    train(run, tmp_path / "straight")
    train(override(run, {"steps": 2}), tmp_path / "resumed")
    train(run, tmp_path / "resumed")
    after, expected = weights(tmp_path / "resumed"), weights(tmp_path / "straight")
    assert all(torch.equal(after[name], each) for name, each in expected.items())
    assert expected["backbone.stem.norm.num_batches_tracked"] == 4
    after, expected = weights(tmp_path / "resumed", "ema"), weights(tmp_path / "straight", "ema")
    assert "stem.norm.running_var" in expected
    assert all(torch.equal(after[name], each) for name, each in expected.items())


def test_statistics_are_averaged_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layers, others = [BatchNorm(3), BatchNorm(5)], [BatchNorm(3), BatchNorm(5)]
    for layer in (*layers, *others):
        layer(torch.randn(4, layer.num_features, 2, 2))
    means = [
        (one + other) / 2
        for mine, theirs in zip(layers, others, strict=True)
        for one, other in ((mine.running_mean, theirs.running_mean), (mine.running_var, theirs.running_var))
    ]
    flat = torch.cat([each for other in others for each in (other.running_mean, other.running_var)])
    average_statistics(layers)  # one process: nothing changes
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "mean", lambda value: (value + flat) / 2)
    average_statistics(layers)
    found = [each for layer in layers for each in (layer.running_mean, layer.running_var)]
    for one, other in zip(found, means, strict=True):
        torch.testing.assert_close(one, other)
    assert layers[0].num_batches_tracked == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_save_the_mean_of_their_statistics(
    resnet_run: Callable[..., Run], tmp_path: Path, kind: str
) -> None:
    """With a learning rate near 0 the mean over both halves of each batch is that of the whole batch in one process."""
    run = override(resnet_run(ema=0.9, steps=4, evaluate_every=4), {"optimizer.lr": 1e-12, "hardware.parallel": kind})
    run_in_two([Job(run, tmp_path / "two")], tmp_path / "jobs")
    assert [each.error for each in ends(tmp_path / "two")] == ["", ""]
    train(override(run, {"hardware.parallel": "none"}), tmp_path / "one")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    name = "backbone.stem.norm.running_mean"
    torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-4)
    saved = checkpoints.load(tmp_path / "two" / "best").model
    assert saved.eval()(torch.randn(1, 3, 16, 16)).isfinite().all()
