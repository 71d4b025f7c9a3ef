"""Chooses the trainable parameters: all, some by name, only the head (linear probe), or LoRA."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vitkit.layers import BatchNorm
from vitkit.models import Backbone


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Config of the trainable parameters, with name patterns such as `blocks.0.*` or `*.attn.*`.

    With no pattern all parameters are trained. `train_only` trains the parameters that match; `freeze` excludes those
    that match. `head_only` trains the model's heads (a linear probe) and what `train_only` matches. A `lora_rank` above
    0 adds a trainable update of that rank to the weights of `lora_layers` (Hu et al. 2021), scaled by `lora_scale`
    (alpha / rank), and trains the heads and what `train_only` matches.
    """

    head_only: bool = False
    train_only: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    lora_rank: int = 0
    lora_scale: float = 2.0
    lora_layers: tuple[str, ...] = ("*.attn.qkv", "*.attn.proj")

    def __post_init__(self) -> None:
        """Raises ValueError if the LoRA rank is negative."""
        if self.lora_rank < 0:
            raise ValueError(f"tuning.lora_rank is {self.lora_rank}; it must be at least 1, or 0 to disable LoRA")


class LowRank(nn.Module):
    """LoRA parametrization of a weight: W + scale * up @ down, initially W (Hu et al. 2021, section 4.1)."""

    def __init__(self, weight: Float[Tensor, "out in"], rank: int, scale: float):
        super().__init__()
        self.scale = scale
        self.down = nn.Parameter(torch.empty(rank, weight.shape[1]))
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """Returns the weight with the LoRA update."""
        return weight + self.scale * (self.up @ self.down)


def apply(tuning: Tuning, backbone: Backbone) -> None:
    """Freezes parameters and adds LoRA updates. Raises ValueError if a pattern matches no parameter.

    A batch norm without a trainable parameter also keeps its running statistics and normalizes with them.
    """
    names = [name for name, _ in backbone.named_parameters()]
    _check_patterns((*tuning.train_only, *tuning.freeze), names, "parameters")
    heads = set(backbone.head_parameters()) if tuning.head_only or tuning.lora_rank else set()
    if tuning.head_only and not heads:
        raise ValueError("tuning.head_only needs a model with a head, but num_classes is 0; set tuning.head_only=false")
    everything = not (tuning.train_only or tuning.head_only or tuning.lora_rank)
    for name, parameter in backbone.named_parameters():
        chosen = everything or name in heads or _matches(name, tuning.train_only)
        trainable = chosen and not _matches(name, tuning.freeze)
        parameter.requires_grad_(parameter.requires_grad and trainable)
    for module in backbone.modules():
        if isinstance(module, BatchNorm) and not any(each.requires_grad for each in module.parameters()):
            module.freeze()
    if tuning.lora_rank:
        add_low_rank(tuning, backbone)
    if not any(parameter.requires_grad for parameter in backbone.parameters()):
        raise ValueError(
            f"no parameter is trainable: tuning.head_only is {tuning.head_only}, train_only is {tuning.train_only}, "
            f"and freeze is {tuning.freeze}"
        )


def add_low_rank(tuning: Tuning, backbone: Backbone) -> None:
    """Adds a LoRA update to the weight of each linear layer that `lora_layers` matches.

    Raises ValueError if a pattern matches no linear layer, and for a model without encoder blocks if none was set.
    """
    if not backbone.blocks and tuning.lora_layers == Tuning().lora_layers:
        raise ValueError(
            f"LoRA is for attention layers, but the family {backbone.family} has none; train the complete model or the "
            "head, or set tuning.lora_layers"
        )
    layers = {name: layer for name, layer in backbone.named_modules() if isinstance(layer, nn.Linear)}
    _check_patterns(tuning.lora_layers, list(layers), "linear layers")
    for name, layer in layers.items():
        if _matches(name, tuning.lora_layers):
            update = LowRank(layer.weight, tuning.lora_rank, tuning.lora_scale)
            parametrize.register_parametrization(layer, "weight", update)


def merge_low_rank(state: Mapping[str, Tensor], tuning: Tuning) -> dict[str, Tensor]:
    """Merges LoRA updates into the weights, and returns the state dict of a model without LoRA."""
    marker, plain = ".parametrizations.weight.", dict(state)
    for name in [name for name in state if name.endswith(f"{marker}original")]:
        layer = name.removesuffix(f"{marker}original")
        up, down = (plain.pop(f"{layer}{marker}0.{part}") for part in ("up", "down"))
        plain[f"{layer}.weight"] = plain.pop(name) + tuning.lora_scale * (up @ down)
    return plain


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_patterns(patterns: Sequence[str], names: Sequence[str], what: str) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"the pattern '{pattern}' matches none of the model's {what} (for example {', '.join(names[:3])})"
            )
