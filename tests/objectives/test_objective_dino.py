"""DINO: the loss against a loop over views, the schedules against the published code, the teacher's EMA."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from vitkit import models
from vitkit.data.loader import Batch
from vitkit.models import axial_resnet, vit
from vitkit.objectives import dino

SMALL = dino.Config(outputs=64, hidden=32, bottleneck=16, local_crops=2, freeze_epochs=0)


def build(config: dino.Config = SMALL, model: Any = vit.TINY) -> dino.DINO:
    torch.manual_seed(0)
    return dino.build(config, models.build(model)).train()


def batch(num: int = 4, size: int = 32) -> Batch:
    images = torch.rand(num, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return Batch(images, torch.ones(num, 5), ("",) * num)


def test_the_loss_is_the_mean_over_pairs_of_different_views() -> None:
    teacher = torch.randn(2, 3, 7, dtype=torch.float64).softmax(2)
    student = torch.randn(5, 3, 7, dtype=torch.float64).log_softmax(2)
    total, pairs = 0.0, 0
    for t in range(2):
        for v in range(5):
            if t == v:
                continue
            pairs += 1
            total += sum(-float((teacher[t, row] * student[v, row]).sum()) for row in range(3)) / 3
    assert pairs == 2 * 5 - 2
    assert dino.dino_loss(teacher, student).item() == pytest.approx(total / pairs, rel=1e-12)


@pytest.mark.parametrize("outputs", [1024, 65536])
def test_the_initial_loss_is_near_the_logarithm_of_the_outputs(outputs: int) -> None:
    objective = build(dataclasses.replace(SMALL, outputs=outputs, hidden=64, bottleneck=256))
    scalars = objective(batch())
    assert scalars["loss"].item() == pytest.approx(math.log(outputs), abs=1.0)
    torch.testing.assert_close(scalars["entropy"] + scalars["kl"], scalars["loss"])


def test_forward_matches_the_published_steps() -> None:
    objective, given = build(), batch()
    with torch.no_grad():
        objective.center.normal_()
        for parameter in objective.student.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    torch.manual_seed(4)
    loss = objective(given)["loss"]
    torch.manual_seed(4)
    global_views, local_views = objective.views(given.images)
    assert [view.shape[2:] for view in global_views + local_views] == [(32, 32), (32, 32), (16, 16), (16, 16)]
    total = 0.0
    for t, first in enumerate(global_views):
        teacher_logits = objective.teacher_head(objective.backbone.represent(objective.backbone.features(first)))
        p = ((teacher_logits - objective.center) / 0.04).softmax(1)
        for v, other in enumerate(global_views + local_views):
            if v != t:
                logits = objective.student_head(objective.student.represent(objective.student.features(other)))
                total += -(p * (logits / 0.1).log_softmax(1)).sum(1).mean().item()
    assert loss.item() == pytest.approx(total / 6, rel=1e-4)


def test_the_center_after_one_step_is_a_tenth_of_the_mean_over_all_micro_batches() -> None:
    objective = build()
    outputs: list[torch.Tensor] = []
    objective.teacher_head.register_forward_hook(lambda _, __, output: outputs.append(output))
    for parts in (1, 2):
        outputs.clear()
        objective.center.zero_()
        for _ in range(parts):
            objective(batch())
            assert objective.center.abs().sum() == 0  # the forward pass uses the center of the previous step
        objective.after_step(0.1)
        torch.testing.assert_close(objective.center[0], 0.1 * torch.cat(outputs).mean(dim=0))
        assert objective.batch_count == 0


def test_teacher_temperatures_at_epochs_0_29_and_30() -> None:
    config = dataclasses.replace(SMALL, teacher_temperatures=(0.04, 0.07), temperature_epochs=30, epochs=100)
    objective = build(config)
    objective.batch_count.fill_(1)
    temperatures = {}
    for step in range(701):  # seven steps per epoch
        if step % 7 == 0:
            temperatures[step // 7] = dino.teacher_temperature(config, objective.epoch)
            assert objective.epoch == min(step // 7, 99)
        if step == 6:
            assert objective.epoch == 0
        objective.batch_count.fill_(1)
        objective.after_step((step + 1) / 700)
    # numpy.linspace(0.04, 0.07, 30), then 0.07, as in the published loss.
    assert temperatures[0] == pytest.approx(0.04)
    assert temperatures[1] == pytest.approx(0.04 + 0.03 / 29)
    assert temperatures[29] == pytest.approx(0.07)
    assert temperatures[30] == temperatures[99] == pytest.approx(0.07)
    assert dino.teacher_temperature(dino.Config(), 0) == pytest.approx(0.04)


def test_the_teacher_is_an_ema_with_a_cosine_schedule_of_the_momentum() -> None:
    total = 40
    table = [1 + 0.5 * (0.996 - 1) * (1 + math.cos(math.pi * step / total)) for step in range(total)]
    assert [dino.teacher_momentum(SMALL, step / total) for step in range(total)] == pytest.approx(table)
    objective = build()
    objective(batch())
    before = {name: tensor.clone() for name, tensor in objective.backbone.named_parameters()}
    with torch.no_grad():
        for parameter in objective.student.parameters():
            parameter.add_(1.0)
    objective.after_step(0.5)  # the momentum of the first step is the first of the table
    for name, tensor in objective.backbone.named_parameters():
        torch.testing.assert_close(tensor, before[name] + 0.004, rtol=1e-4, atol=1e-5)
    assert all(parameter.grad is None for parameter in objective.backbone.parameters())
    assert not any(parameter.requires_grad for parameter in objective.backbone.parameters())


def test_only_the_student_is_in_training_mode_and_the_teacher_gets_its_buffers() -> None:
    objective = build(model=dataclasses.replace(vit.TINY, stochastic_depth=0.5))
    assert objective.student.training
    assert not objective.backbone.training
    norms = build(model=axial_resnet.TINY)
    norms(batch(size=40))
    norms.after_step(0.1)
    for mine, other in zip(norms.backbone.buffers(), norms.student.buffers(), strict=True):
        assert torch.equal(mine, other)


def test_the_last_layer_is_frozen_in_the_first_epoch() -> None:
    objective = build(dataclasses.replace(SMALL, freeze_epochs=1, epochs=10))
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    start = objective.student_head.last_layer.weight_v.clone()
    for step, moved in enumerate((False, False, True)):
        optimizer.zero_grad()
        objective(batch())["loss"].backward()
        optimizer.step()
        assert torch.equal(start, objective.student_head.last_layer.weight_v) is not moved
        objective.after_step((step + 1) * 0.05)
    assert not objective.student_head.last_layer.weight_g.requires_grad
    assert build(dataclasses.replace(SMALL, fixed_norm=False)).student_head.last_layer.weight_g.requires_grad


def test_the_scalars_show_a_collapse() -> None:
    objective = build()
    with torch.no_grad():
        for head in (objective.teacher_head, objective.student_head):
            head.mlp[-1].weight.zero_()  # the same output for every image
            head.mlp[-1].bias.fill_(1.0)
            head.last_layer.weight_v.fill_(1.0)  # and the same for every output
    scalars = objective(batch())
    assert scalars["entropy"].item() == pytest.approx(math.log(64), rel=1e-5)
    assert scalars["kl"].item() == pytest.approx(0, abs=1e-4)
    with torch.no_grad():
        objective.center.fill_(0)
        objective.center[0, 0] = -1e3
    assert objective(batch())["entropy"].item() == pytest.approx(0, abs=1e-5)


def test_effective_rank_of_simple_sets_of_vectors() -> None:
    line = torch.arange(6.0)[:, None] * torch.ones(1, 4)
    assert dino.effective_rank(line).item() == pytest.approx(1, rel=1e-5)
    assert dino.effective_rank(torch.cat([torch.eye(4), -torch.eye(4)])).item() == pytest.approx(4, rel=1e-5)
    assert dino.effective_rank(torch.eye(3, 50)).item() == pytest.approx(2, rel=1e-5)
    assert dino.effective_rank(torch.ones(3, 5)).item() == 0


def test_local_views_have_96_pixels_for_224() -> None:
    for preset, expected in (("dino-s/16", (96, 96)), ("dino-s/8", (96, 96)), ("dinov2-s/14", (224, 224))):
        backbone = models.build(models.preset(preset), device="meta")
        assert dino._local_size(backbone.config.image_size, backbone) == expected


def test_unsupported_models_and_configs_are_rejected() -> None:
    with pytest.raises(ValueError, match="but pool is 'none'"):
        build(model=dataclasses.replace(vit.TINY, pool="none"))
    with pytest.raises(ValueError, match="must each have 1 values, one per channel"):
        build(model=dataclasses.replace(vit.TINY, channels=1))
    with pytest.raises(ValueError, match="outputs is 1"):
        dino.Config(outputs=1)
    with pytest.raises(ValueError, match="momentum is 2"):
        dino.Config(momentum=2.0)
    with pytest.raises(ValueError, match=r"temperatures are .*; all must be above 0"):
        dino.Config(student_temperature=0.0)
