"""What of a model learns: all of it, parts by name, the head alone (a linear probe), or low-rank changes (LoRA)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vitkit.models import Backbone


@dataclass(frozen=True, kw_only=True)
class Tune:
    """Patterns of parameter names (`blocks.0.*`, `*.attn.*`) that learn: `only` those, if any are given, not `freeze`.

    With `head_only` only the model's heads are trained (a linear probe), and what `only` names. With `lora_rank` above
    0 the weights of `lora_layers` get a change of that rank that learns (Hu et al. 2021), times `lora_scale` (alpha /
    rank); of the rest only the heads and what `only` names learns.
    """

    head_only: bool = False
    only: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    lora_rank: int = 0
    lora_scale: float = 2.0
    lora_layers: tuple[str, ...] = ("*.attn.qkv", "*.attn.proj")

    def __post_init__(self) -> None:
        """Refuses a rank that is none."""
        if self.lora_rank < 0:
            raise ValueError(f"tune.lora_rank is {self.lora_rank}; it must be at least 1, or 0 for no LoRA")


class LowRank(nn.Module):
    """A weight plus a product of two thin matrices, zero at the start: W + scale * up down (Hu et al. 2021, section
    4.1).
    """

    def __init__(self, weight: Float[Tensor, "out in"], rank: int, scale: float):
        super().__init__()
        self.scale = scale
        self.down = nn.Parameter(torch.empty(rank, weight.shape[1]))
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """The changed weight."""
        return weight + self.scale * (self.up @ self.down)


def apply(tune: Tune, backbone: Backbone) -> None:
    """Freezes what shall not learn, and adds the low-rank changes; ValueError for a pattern that nothing answers to."""
    names = [name for name, _ in backbone.named_parameters()]
    _refuse_strangers((*tune.only, *tune.freeze), names, "parameters")
    heads = set(backbone.head_parameters()) if tune.head_only or tune.lora_rank else set()
    if tune.head_only and not heads:
        raise ValueError("tune.head_only trains the head, and the model has none: num_classes is 0")
    everything = not (tune.only or tune.head_only or tune.lora_rank)
    for name, parameter in backbone.named_parameters():
        learns = (everything or name in heads or _matches(name, tune.only)) and not _matches(name, tune.freeze)
        parameter.requires_grad_(parameter.requires_grad and learns)
    if tune.lora_rank:
        add_low_rank(tune, backbone)
    if not any(parameter.requires_grad for parameter in backbone.parameters()):
        raise ValueError(
            f"nothing learns: tune.head_only is {tune.head_only}, only {tune.only} and freeze {tune.freeze}"
        )


def add_low_rank(tune: Tune, backbone: Backbone) -> None:
    """Puts a low-rank change on the weight of each named dense layer."""
    layers = {name: layer for name, layer in backbone.named_modules() if isinstance(layer, nn.Linear)}
    _refuse_strangers(tune.lora_layers, list(layers), "dense layers")
    for name, layer in layers.items():
        if _matches(name, tune.lora_layers):
            change = LowRank(layer.weight, tune.lora_rank, tune.lora_scale)
            parametrize.register_parametrization(layer, "weight", change)


def merged(state: Mapping[str, Tensor], tune: Tune) -> dict[str, Tensor]:
    """The state of a plain model from that of one with low-rank changes: changed weights under their own names."""
    marker, plain = ".parametrizations.weight.", dict(state)
    for name in [name for name in state if name.endswith(f"{marker}original")]:
        layer = name.removesuffix(f"{marker}original")
        up, down = (plain.pop(f"{layer}{marker}0.{part}") for part in ("up", "down"))
        plain[f"{layer}.weight"] = plain.pop(name) + tune.lora_scale * (up @ down)
    return plain


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _refuse_strangers(patterns: Sequence[str], names: Sequence[str], what: str) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"'{pattern}' matches none of the model's {what}, such as {', '.join(names[:3])}")
