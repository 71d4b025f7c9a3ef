"""The update of the weights: which optimiser, what weight decay means and touches, and how fast each layer learns."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from vitkit.models import Backbone
from vitkit.objectives import Objective
from vitkit.train.optim._combined import Together
from vitkit.train.optim.lamb import Lamb
from vitkit.train.optim.lion import Lion


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The optimiser, with gradients clipped to the norm `clip`, None for no clipping: that of `all` of them together,
    or of each `tensor` by itself, as DINO's code does.

    `adamw` (Loshchilov and Hutter 2019), `adam` (decay as part of the gradient), `sgd` with `momentum` (the paper's
    fine-tuning), `lion` (Chen et al. 2023), `lamb` (You et al. 2020; DeiT III's; without weight decay it is Adam),
    `muon` (Jordan 2024) for the matrices inside blocks and adamw for the rest, its steps scaled to the size of adamw's
    so that rates carry over.

    `decay` says what `weight_decay` multiplies at each update: `rate` the learning rate of that step, as in the ViT
    paper and PyTorch; `schedule` only the schedule's share of the peak rate, as in big_vision. At a peak rate of 1e-3,
    0.1 in the first is 1e-4 in the second. With `final_decay` it goes there on a cosine over the run (DINO: 0.04 to
    0.4). `layer_decay` multiplies the rate once for each block between a layer and the head (BEiT, MAE: 0.65 to 0.9).
    """

    name: Literal["adamw", "adam", "sgd", "lion", "lamb", "muon"] = "adamw"
    rate: float = 1e-3
    weight_decay: float = 0.1
    final_decay: float | None = None
    decay: Literal["rate", "schedule"] = "rate"
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    eps: float = 1e-8
    clip: float | None = 1.0
    clip_by: Literal["all", "tensor"] = "all"
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        """Refuses what cannot train."""
        if self.rate <= 0.0 or self.weight_decay < 0.0:
            given = f"optimizer.rate is {self.rate} and weight_decay {self.weight_decay}"
            raise ValueError(f"{given}; the rate must be above 0, the decay at least 0")
        if self.final_decay is not None and min(self.weight_decay, self.final_decay) <= 0.0:
            given = f"optimizer.weight_decay is {self.weight_decay} and final_decay {self.final_decay}"
            raise ValueError(f"{given}; a decay that changes goes from one number above 0 to another")
        if self.clip is not None and self.clip <= 0.0:
            raise ValueError(f"optimizer.clip is {self.clip}; it must be above 0, or none for no clipping")
        if not 0.0 < self.layer_decay <= 1.0:
            raise ValueError(f"optimizer.layer_decay is {self.layer_decay}; it must be above 0 and at most 1")
        if self.name in ("adam", "sgd", "lamb") and self.decay == "schedule" and self.weight_decay:
            where = "the step before its length is set" if self.name == "lamb" else "the gradient"
            raise ValueError(f"decay='schedule' is beside the step; in {self.name} decay is part of {where}")


def build(config: Optimizer, module: nn.Module) -> torch.optim.Optimizer:
    """The optimiser over the parameters of `module` that take gradients, in groups of one decay and one share of the
    rate.
    """
    if config.name == "muon":
        return _muon(config, module)
    groups = rate_groups(config, module, *parameter_groups(module))
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.rate, momentum=config.momentum)
    if config.name == "lion":
        return Lion(groups, lr=config.rate, betas=config.betas)
    if config.name == "lamb":
        return Lamb(groups, lr=config.rate, betas=config.betas, eps=config.eps)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=config.rate, betas=config.betas, eps=config.eps, fused=True)


def _muon(config: Optimizer, module: nn.Module) -> torch.optim.Optimizer:
    decayed, kept = parameter_groups(module)
    inside = {id(each) for part in _backbones(module).values() for each in part.blocks.parameters()}
    inner = {name: each for name, each in decayed.items() if each.ndim == 2 and id(each) in inside}
    outer = {name: each for name, each in decayed.items() if name not in inner}
    if not inner:
        raise ValueError("muon is for the matrices inside blocks, and here none learns: use adamw")
    matrices = torch.optim.Muon(
        rate_groups(config, module, inner, {}),
        lr=config.rate,
        momentum=config.momentum,
        adjust_lr_fn="match_rms_adamw",
    )
    rest = rate_groups(config, module, outer, kept)
    if not rest:
        return matrices
    return Together([matrices, torch.optim.AdamW(rest, lr=config.rate, betas=config.betas, eps=config.eps, fused=True)])


def parameter_groups(module: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """The parameters by name: those under weight decay, and the rest.

    Only the matrices and kernels of dense layers and convolutions decay (big_vision's `.*/kernel`): no bias, norm,
    scale, position table, class token or other learned token.
    """
    decayed, kept = {}, {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            kernel = name.endswith("weight") and parameter.ndim > 1
            (decayed if kernel else kept)[name] = parameter
    return decayed, kept


def rate_groups(
    config: Optimizer, module: nn.Module, decayed: dict[str, nn.Parameter], kept: dict[str, nn.Parameter]
) -> list[dict[str, Any]]:
    """The groups an optimiser takes; `scale` is a group's share of the learning rate."""
    weight_decay = config.weight_decay / config.rate if config.decay == "schedule" else config.weight_decay
    shares = layer_shares(module, config.layer_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for amount, named in ((weight_decay, decayed), (0.0, kept)):
        for name, parameter in named.items():
            groups.setdefault((amount, shares[name]), []).append(parameter)
    return [{"params": members, "weight_decay": amount, "scale": share} for (amount, share), members in groups.items()]


def layer_shares(module: nn.Module, layer_decay: float) -> dict[str, float]:
    """The share of the learning rate of every parameter: layer_decay ^ (depth + 1 - layer).

    The layer is `Backbone.layer_of` of the backbone that the parameter belongs to. An objective's own parameters have
    the full rate, but for those that enter the backbone before its first block, which are of layer 0.
    """
    names = [name for name, _ in module.named_parameters()]
    if layer_decay == 1.0:
        return dict.fromkeys(names, 1.0)
    backbones = _backbones(module)
    if not any(len(part.blocks) for part in backbones.values()):
        raise ValueError("optimizer.layer_decay needs a model with blocks; set it to 1")
    shares = dict.fromkeys(names, 1.0)
    for prefix, part in backbones.items():
        for name, _ in part.named_parameters():
            shares[f"{prefix}{name}"] = layer_decay ** (len(part.blocks) + 1 - part.layer_of(name))
    if isinstance(module, Objective):
        inputs = {id(each) for each in module.input_parameters()}
        first = layer_decay ** (len(module.backbone.blocks) + 1)
        shares |= {name: first for name, each in module.named_parameters() if id(each) in inputs}
    return shares


def _backbones(module: nn.Module) -> dict[str, Backbone]:
    """The backbones in a module, by the prefix of their parameter names."""
    named = module.named_modules()
    return {f"{name}." if name else "": part for name, part in named if isinstance(part, Backbone)}


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of the next update, of each group its share."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def set_decay(optimizer: torch.optim.Optimizer, config: Optimizer, progress: float) -> None:
    """Sets the weight decay of the next update, where it changes over the run; `progress` is 0 before the first."""
    if config.final_decay is None:
        return
    value = config.final_decay + (config.weight_decay - config.final_decay) * (1 + math.cos(math.pi * progress)) / 2
    for group in optimizer.param_groups:
        if group["weight_decay"] > 0:
            group["weight_decay"] = value / config.rate if config.decay == "schedule" else value


def clip_gradients(config: Optimizer, parameters: Iterable[nn.Parameter], norm: torch.Tensor) -> None:
    """Scales gradients down to the norm that the config allows; `norm` is that of all of them."""
    if config.clip is None:
        return
    if config.clip_by == "all":
        nn.utils.clip_grads_with_norm_(parameters, config.clip, norm)
        return
    for parameter in parameters:
        if parameter.grad is not None:
            nn.utils.clip_grad_norm_([parameter], config.clip)
