"""Lion, LAMB, Muon, layer-wise learning rates and EMA against their formulas, step by step in float64."""

import copy
import math

import pytest
import torch
from oracles import oracle
from torch import Tensor, nn

from vitkit import models
from vitkit.models import vit
from vitkit.training import optim
from vitkit.training.optim import Optimizer
from vitkit.training.optim._combined import CombinedOptimizer
from vitkit.training.schedule import EMA


def test_lion_by_hand() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2, bias=False).double()
    config = Optimizer(name="lion", lr=1e-3, weight_decay=0.5, betas=(0.9, 0.99))
    optimizer = optim.build(config, layer)
    weight, momentum = layer.weight.detach().clone(), torch.zeros(2, 3, dtype=torch.float64)
    for step in range(5):
        lr = 1e-3 * (step + 1)
        optim.set_lr(optimizer, lr)
        gradient = torch.randn(2, 3, dtype=torch.float64)
        layer.weight.grad = gradient.clone()
        optimizer.step()
        direction = (0.9 * momentum + 0.1 * gradient).sign()
        weight = weight - lr * (direction + 0.5 * weight)
        momentum = 0.99 * momentum + 0.01 * gradient
    torch.testing.assert_close(layer.weight.detach(), weight, atol=1e-12, rtol=1e-12)


def test_lamb_by_hand() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    config = Optimizer(name="lamb", lr=1e-2, weight_decay=0.5, betas=(0.9, 0.99), eps=1e-6)
    optimizer = optim.build(config, layer)
    values = [parameter.detach().clone() for parameter in layer.parameters()]
    first, second = ([torch.zeros_like(value) for value in values] for _ in range(2))
    for step in range(1, 6):
        lr = 1e-2 * step
        optim.set_lr(optimizer, lr)
        gradients = [torch.randn_like(value) for value in values]
        for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        for each, gradient in enumerate(gradients):
            first[each] = 0.9 * first[each] + 0.1 * gradient
            second[each] = 0.99 * second[each] + 0.01 * gradient**2
            adam = first[each] / (1 - 0.9**step) / ((second[each] / (1 - 0.99**step)).sqrt() + 1e-6)
            if each == 0:  # the weight has weight decay; the bias is updated as by Adam
                adam = adam + 0.5 * values[each]
                adam = adam * values[each].norm() / adam.norm()
            values[each] = values[each] - lr * adam
    for parameter, value in zip(layer.parameters(), values, strict=True):
        torch.testing.assert_close(parameter.detach(), value, atol=1e-12, rtol=1e-12)


def test_lamb_equals_timm() -> None:
    timm_optim = oracle("timm.optim")
    torch.manual_seed(0)
    layer = nn.Linear(5, 4).double()
    other = copy.deepcopy(layer)
    ours = optim.build(Optimizer(name="lamb", lr=3e-3, weight_decay=0.05), layer)
    groups = [{"params": [other.weight], "weight_decay": 0.05}, {"params": [other.bias], "weight_decay": 0.0}]
    theirs = timm_optim.Lamb(groups, lr=3e-3, eps=1e-8, max_grad_norm=None)
    for _ in range(10):
        for mine, its in zip(layer.parameters(), other.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            its.grad = mine.grad.clone()
        ours.step()
        theirs.step()
    for mine, its in zip(layer.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, its, atol=1e-10, rtol=1e-10)


def test_lamb_updates_a_zero_weight_as_adam() -> None:
    layer = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(layer.weight)
    optimizer = optim.build(Optimizer(name="lamb", lr=0.1, weight_decay=0.1), layer)
    layer.weight.grad = torch.ones(2, 3)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), torch.full((2, 3), -0.1))


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_weight_decay_added_to_the_gradient(name: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2, bias=False).double()
    optimizer = optim.build(Optimizer(name=name, lr=1e-2, weight_decay=0.1, momentum=0.9), layer)  # type: ignore[arg-type]
    weight = layer.weight.detach().clone()
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(1, 5):
        gradient = torch.randn_like(weight)
        layer.weight.grad = gradient.clone()
        optimizer.step()
        gradient = gradient + 0.1 * weight
        if name == "sgd":
            first = 0.9 * first + gradient
            weight = weight - 1e-2 * first
        else:
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            move = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
            weight = weight - 1e-2 * move
    torch.testing.assert_close(layer.weight.detach(), weight, atol=1e-12, rtol=1e-12)


def newton_schulz(matrix: Tensor) -> Tensor:
    """Jordan 2024: five steps of X <- a X + (b A + c A^2) X with A = X X^T, in bfloat16."""
    x = matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if tall else x


def test_muon_updates_matrices_in_blocks_by_orthogonal_steps() -> None:
    torch.manual_seed(0)
    model = models.build(vit.TINY)
    config = Optimizer(name="muon", lr=1e-2, weight_decay=0.1)
    optimizer = optim.build(config, model)
    assert isinstance(optimizer, CombinedOptimizer)
    muon = {id(each) for group in optimizer.parts[0].param_groups for each in group["params"]}
    named = dict(model.named_parameters())
    assert {name for name, each in named.items() if id(each) in muon} == {
        name for name, each in named.items() if name.startswith("blocks.") and each.ndim == 2
    }
    before = {name: each.detach().clone() for name, each in named.items()}
    for each in named.values():
        each.grad = torch.randn_like(each)
    optim.set_lr(optimizer, 5e-3)
    optimizer.step()
    for name, each in named.items():
        old, gradient = before[name], each.grad
        assert gradient is not None
        if id(each) in muon:
            # The first step of Nesterov momentum is a multiple of the gradient.
            step = newton_schulz(gradient).float() * 0.2 * math.sqrt(max(each.shape))
            expected = old * (1 - 5e-3 * 0.1) - 5e-3 * step
            torch.testing.assert_close(each.detach(), expected, atol=2e-4, rtol=2e-2)
        else:
            decay = 0.1 if name.endswith("weight") and each.ndim > 1 else 0.0
            expected = old * (1 - 5e-3 * decay) - 5e-3 * gradient.sign()
            torch.testing.assert_close(each.detach(), expected, atol=1e-4, rtol=1e-3)


def test_combined_optimizers_resume_from_their_state_dict() -> None:
    def start() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = models.build(vit.TINY)
        return model, optim.build(Optimizer(name="muon"), model)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        for each in model.parameters():
            each.grad = torch.randn_like(each)
        optimizer.step()

    (one, first), (two, second) = start(), start()
    for seed in range(3):
        step(one, first, seed)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    two.load_state_dict(one.state_dict())
    optim.set_lr(first, 0.5)
    optim.set_lr(second, 0.5)
    step(one, first, 9)
    step(two, second, 9)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_layers_nearer_the_input_have_lower_learning_rates() -> None:
    model = models.build(vit.TINY)  # two blocks
    optimizer = optim.build(Optimizer(lr=1.0, layer_decay=0.5), model)
    optim.set_lr(optimizer, 0.8)
    lrs = {id(each): group["lr"] for group in optimizer.param_groups for each in group["params"]}
    found = {name: lrs[id(each)] for name, each in model.named_parameters()}
    for name, lr in found.items():
        power = 3 if name.split(".")[0] in ("patch_embed", "pos_embed", "cls_token") else 0
        power = {"0": 2, "1": 1}[name.split(".")[1]] if name.startswith("blocks.") else power
        assert lr == 0.8 * 0.5**power, name
    assert set(optim.layer_scales(model, 1.0).values()) == {1.0}
    with pytest.raises(ValueError, match="needs a model with encoder blocks"):
        optim.layer_scales(nn.Linear(2, 2), 0.9)


def test_ema_by_hand() -> None:
    layer = nn.Linear(2, 2).double()
    ema, expected = EMA(layer, 0.3), layer.weight.detach().clone()
    for step in range(1, 8):
        with torch.no_grad():
            layer.weight.add_(torch.randn(2, 2))
        ema.update(layer, step)
        keep = min(0.3, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * layer.weight.detach()
    torch.testing.assert_close(ema.values["weight"], expected, atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layer_decay": 0.0}, r"optimizer\.layer_decay is 0"),
        ({"name": "sgd", "decay": "schedule"}, "sgd adds it to the gradient"),
    ],
)
def test_invalid_settings_are_rejected(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Optimizer(**fields)  # type: ignore[arg-type]
