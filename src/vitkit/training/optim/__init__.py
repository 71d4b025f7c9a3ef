"""Optimizers, their parameter groups (weight decay, layer-wise learning rates) and gradient clipping."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from vitkit.models import Backbone
from vitkit.objectives import Objective
from vitkit.training.optim._combined import CombinedOptimizer, Group
from vitkit.training.optim.lamb import Lamb
from vitkit.training.optim.lion import Lion


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Config of an optimizer: peak learning rate `lr`, weight decay and gradient clipping.

    `adamw` (Loshchilov and Hutter 2019), `adam` (weight decay added to the gradient), `sgd` with `momentum`
    (fine-tuning in the ViT paper), `lion` (Chen et al. 2023), `lamb` (You et al. 2020, as in DeiT III; Adam for tensors
    without weight decay), `muon` (Jordan 2024) for the matrices inside blocks and adamw for the rest. Updates of muon
    have the size of adamw's, so that the same learning rate suits both.

    `decay` chooses the factor of `weight_decay` in an update: the learning rate of the step (`lr`), as in the ViT paper
    and PyTorch, or the learning rate as a fraction of its peak (`schedule`), as in big_vision. At a peak of 1e-3, a
    weight decay of 0.1 with `lr` equals 1e-4 with `schedule`. With `final_decay` the weight decay follows a cosine to
    that value (DINO: 0.04 to 0.4). `layer_decay` multiplies the learning rate once for each block between a layer and
    the head (BEiT, MAE: 0.65 to 0.9).

    `clip` is the maximum gradient norm, None for no clipping: of `all` gradients together, or of each `tensor`, as in
    DINO's code.
    """

    name: Literal["adamw", "adam", "sgd", "lion", "lamb", "muon"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.1
    final_decay: float | None = None
    decay: Literal["lr", "schedule"] = "lr"
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    eps: float = 1e-8
    clip: float | None = 1.0
    clip_by: Literal["all", "tensor"] = "all"
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError if a value is out of range."""
        if self.lr <= 0.0 or self.weight_decay < 0.0:
            given = f"optimizer.lr is {self.lr} and weight_decay {self.weight_decay}"
            raise ValueError(f"{given}; lr must be above 0, and weight_decay must be at least 0")
        if self.final_decay is not None and min(self.weight_decay, self.final_decay) <= 0.0:
            given = f"optimizer.weight_decay is {self.weight_decay} and final_decay {self.final_decay}"
            raise ValueError(f"{given}; if final_decay is set, both must be above 0")
        if self.clip is not None and self.clip <= 0.0:
            raise ValueError(f"optimizer.clip is {self.clip}; it must be above 0, or none to disable clipping")
        if not 0.0 < self.layer_decay <= 1.0:
            raise ValueError(f"optimizer.layer_decay is {self.layer_decay}; it must be above 0 and at most 1")
        if self.name in ("adam", "sgd", "lamb") and self.decay == "schedule" and self.weight_decay:
            where = "the update before its scaling" if self.name == "lamb" else "the gradient"
            raise ValueError(
                f"optimizer.decay=schedule needs decoupled weight decay, but {self.name} adds it to {where}; set "
                "optimizer.decay=lr"
            )


def build(config: Optimizer, module: nn.Module) -> torch.optim.Optimizer:
    """Builds the optimizer for the trainable parameters of `module`, grouped by weight decay and learning rate."""
    if config.name == "muon":
        return _muon(config, module)
    groups = parameter_groups(config, module, *split_by_decay(module))
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    if config.name == "lion":
        return Lion(groups, lr=config.lr, betas=config.betas)
    if config.name == "lamb":
        return Lamb(groups, lr=config.lr, betas=config.betas, eps=config.eps)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def _muon(config: Optimizer, module: nn.Module) -> torch.optim.Optimizer:
    decayed, undecayed = split_by_decay(module)
    inside = {id(each) for part in _backbones(module).values() for each in part.blocks.parameters()}
    inner = {name: each for name, each in decayed.items() if each.ndim == 2 and id(each) in inside}
    outer = {name: each for name, each in decayed.items() if name not in inner}
    if not inner:
        raise ValueError("muon needs trainable matrices in encoder blocks, but there are none; use adamw")
    matrices = torch.optim.Muon(
        parameter_groups(config, module, inner, {}),
        lr=config.lr,
        momentum=config.momentum,
        adjust_lr_fn="match_rms_adamw",
    )
    rest = parameter_groups(config, module, outer, undecayed)
    if not rest:
        return matrices
    adamw = torch.optim.AdamW(rest, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
    return CombinedOptimizer([matrices, adamw])


def split_by_decay(module: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Returns two dicts of trainable parameters by name: those with and those without weight decay.

    Weight decay applies to the weights of linear and convolution layers (big_vision's `.*/kernel`), not to biases,
    norms, scales, position embeddings and tokens.
    """
    decayed, undecayed = {}, {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            kernel = name.endswith("weight") and parameter.ndim > 1
            (decayed if kernel else undecayed)[name] = parameter
    return decayed, undecayed


def parameter_groups(
    config: Optimizer, module: nn.Module, decayed: dict[str, nn.Parameter], undecayed: dict[str, nn.Parameter]
) -> list[Group]:
    """Returns the parameter groups for an optimizer. The `scale` of a group multiplies its learning rate."""
    weight_decay = config.weight_decay / config.lr if config.decay == "schedule" else config.weight_decay
    scales = layer_scales(module, config.layer_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for amount, named in ((weight_decay, decayed), (0.0, undecayed)):
        for name, parameter in named.items():
            groups.setdefault((amount, scales[name]), []).append(parameter)
    return [{"params": members, "weight_decay": amount, "scale": scale} for (amount, scale), members in groups.items()]


def layer_scales(module: nn.Module, layer_decay: float) -> dict[str, float]:
    """Returns the learning rate factor of each parameter: layer_decay ^ (depth + 1 - layer).

    The layer is `Backbone.layer_of`. Parameters of the objective itself have factor 1, except inputs of the first block
    (such as a mask token), which count as layer 0.
    """
    names = [name for name, _ in module.named_parameters()]
    if layer_decay == 1.0:
        return dict.fromkeys(names, 1.0)
    backbones = _backbones(module)
    if not any(len(part.blocks) for part in backbones.values()):
        raise ValueError("optimizer.layer_decay needs a model with encoder blocks; set layer_decay to 1")
    scales = dict.fromkeys(names, 1.0)
    for prefix, part in backbones.items():
        for name, _ in part.named_parameters():
            scales[f"{prefix}{name}"] = layer_decay ** (len(part.blocks) + 1 - part.layer_of(name))
    if isinstance(module, Objective):
        inputs = {id(each) for each in module.input_parameters()}
        first = layer_decay ** (len(module.backbone.blocks) + 1)
        scales |= {name: first for name, each in module.named_parameters() if id(each) in inputs}
    return scales


def _backbones(module: nn.Module) -> dict[str, Backbone]:
    """Returns the backbones in a module. Keys are the prefixes of their parameter names."""
    named = module.named_modules()
    return {f"{name}." if name else "": part for name, part in named if isinstance(part, Backbone)}


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of each parameter group to `lr` times the `scale` of the group."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("scale", 1.0)


def set_weight_decay(optimizer: torch.optim.Optimizer, config: Optimizer, progress: float) -> None:
    """Sets the weight decay of the parameter groups to its scheduled value, if the config has a schedule."""
    if config.final_decay is None:
        return
    value = config.final_decay + (config.weight_decay - config.final_decay) * (1 + math.cos(math.pi * progress)) / 2
    for group in optimizer.param_groups:
        if group["weight_decay"] > 0:
            group["weight_decay"] = value / config.lr if config.decay == "schedule" else value


def clip_gradients(config: Optimizer, parameters: Iterable[nn.Parameter], norm: torch.Tensor) -> None:
    """Clips gradients to the maximum norm in the config. The argument `norm` is their total norm before clipping."""
    if config.clip is None:
        return
    if config.clip_by == "all":
        nn.utils.clip_grads_with_norm_(parameters, config.clip, norm)
        return
    for parameter in parameters:
        if parameter.grad is not None:
            nn.utils.clip_grad_norm_([parameter], config.clip)
