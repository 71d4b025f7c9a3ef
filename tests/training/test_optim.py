"""Weight decay: which parameters it applies to, and its updates against the formulas of both conventions."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from vitkit import models
from vitkit.training import optim
from vitkit.training.optim import Optimizer


@pytest.mark.parametrize("name", models.families())
def test_only_kernels_have_weight_decay(name: str) -> None:
    model = models.build(models.family(name).TINY)
    decayed, undecayed = optim.split_by_decay(model)
    assert sorted([*decayed, *undecayed]) == sorted(
        name for name, parameter in model.named_parameters() if parameter.requires_grad
    )
    kernels = {
        f"{where}.{part}"
        for where, module in model.named_modules()
        for part, parameter in module.named_parameters(recurse=False)
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) and part == "weight" and parameter.requires_grad
    }
    assert set(decayed) == kernels
    assert not [name for name in decayed if "pos_embed" in name or "token" in name or "norm" in name]


@pytest.mark.parametrize(("decay", "amount"), [("lr", 0.1), ("schedule", 1e-4)])
def test_both_conventions_of_weight_decay_by_hand(decay: str, amount: float) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    config = Optimizer(lr=1e-3, weight_decay=amount, decay=decay, betas=(0.9, 0.99), eps=1e-8)  # type: ignore[arg-type]
    optimizer = optim.build(config, layer)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    m, v = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(1, 6):
        fraction = 0.2 * step  # fraction of the peak learning rate
        optim.set_lr(optimizer, config.lr * fraction)
        gradient = torch.randn_like(weight)
        layer.weight.grad, layer.bias.grad = gradient.clone(), torch.zeros_like(bias)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.99 * v + 0.01 * gradient**2
        adam = (m / (1 - 0.9**step)) / ((v / (1 - 0.99**step)).sqrt() + 1e-8)
        shrink = amount * fraction * (config.lr if decay == "lr" else 1.0)
        weight = weight - config.lr * fraction * adam - shrink * weight
    torch.testing.assert_close(layer.weight.detach(), weight, atol=1e-12, rtol=1e-12)
    assert torch.equal(layer.bias.detach(), bias)


def test_frozen_parameters_are_left_out() -> None:
    layer = nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    decayed, undecayed = optim.split_by_decay(layer)
    assert not decayed
    assert list(undecayed) == ["bias"]
    optim.build(Optimizer(), layer)


@pytest.mark.parametrize("decay", ["lr", "schedule"])
def test_scheduled_weight_decay_follows_a_cosine_without_biases(decay: str) -> None:
    config = Optimizer(lr=1e-2, weight_decay=0.04, final_decay=0.4, decay=decay)  # type: ignore[arg-type]
    optimizer = optim.build(config, nn.Linear(3, 2))
    scale = config.lr if decay == "schedule" else 1.0
    for step in range(11):
        optim.set_weight_decay(optimizer, config, step / 10)
        # DINO's schedule: final + (base - final) (1 + cos(pi t / T)) / 2
        expected = 0.4 + 0.5 * (0.04 - 0.4) * (1 + math.cos(math.pi * step / 10))
        kernels, rest = (group["weight_decay"] for group in optimizer.param_groups)
        assert (kernels * scale, rest) == (pytest.approx(expected), 0.0)
    constant = optim.build(replace(config, final_decay=None), nn.Linear(3, 2))
    optim.set_weight_decay(constant, replace(config, final_decay=None), 0.5)
    assert constant.param_groups[0]["weight_decay"] * scale == pytest.approx(0.04)


def test_gradients_are_clipped_by_global_norm_or_per_tensor() -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(2, 3) * 10, torch.randn(2) * 0.01]
    for clip_by in ("all", "tensor"):
        layer = nn.Linear(3, 2)
        for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        norm = nn.utils.get_total_norm(gradients)
        config = Optimizer(clip=3.0, clip_by=clip_by)  # type: ignore[arg-type]
        optim.clip_gradients(config, layer.parameters(), norm)
        for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
            of = norm if clip_by == "all" else gradient.norm()
            torch.testing.assert_close(parameter.grad, gradient * min(1.0, 3.0 / (of.item() + 1e-6)))


def test_invalid_settings_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"optimizer\.lr is 0"):
        Optimizer(lr=0.0)
    with pytest.raises(ValueError, match=r"optimizer\.clip is 0"):
        Optimizer(clip=0.0)
    with pytest.raises(ValueError, match=r"weight_decay is 0\.0 and final_decay 0\.4"):
        Optimizer(weight_decay=0.0, final_decay=0.4)
