"""Activation functions, with the names by which model configs and other libraries select them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

# Activations that a model config can name: every backend computes them.
ActivationName = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]


# The factor of x in the sigmoid of QuickGELU.
QUICK_GELU_FACTOR = 1.702


def quick_gelu(x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """Approximates GELU as CLIP does: x * sigmoid(1.702 x)."""
    return x * torch.sigmoid(QUICK_GELU_FACTOR * x)


class QuickGELU(nn.Module):
    """Approximation of GELU that CLIP uses: x * sigmoid(1.702 x)."""

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Applies the activation to each element."""
        return quick_gelu(x)


class ClippedGELUActivation(nn.Module):
    """GELU whose values are clipped to [-10, 10], for quantization (Wu et al. 2020)."""

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Applies the activation to each element."""
        return F.gelu(x).clamp(-10, 10)


class LaplaceActivation(nn.Module):
    """Smooth approximation of the squared ReLU: the distribution function of a normal distribution (MEGA)."""

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Applies the activation to each element."""
        return 0.5 * (1.0 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2.0))))


class ReLUSquaredActivation(nn.Module):
    """Squared ReLU (So et al. 2021, Primer)."""

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Applies the activation to each element."""
        return F.relu(x).square()


class SqrtSoftplusActivation(nn.Module):
    """Square root of the softplus function."""

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Applies the activation to each element."""
        return F.softplus(x).sqrt()


@dataclass(frozen=True, kw_only=True)
class Activation:
    """An activation function, with its torch module and its names in transformers and timm.

    The first name in `transformers` and `timm` is written to files. Activations that can be used in a model config also
    have the torch `function`. `flax` is the name and the arguments of the Flax function, if there is one. `onednn` is
    the name and the variant of the activation that oneDNN can fuse into a matrix product. QuickGELU is fused as a SiLU
    of scaled inputs.
    """

    module: Callable[[], nn.Module]
    transformers: tuple[str, ...]
    timm: tuple[str, ...] = ()
    function: Callable[[Tensor], Tensor] | None = None
    onednn: tuple[str, str] | None = None
    flax: tuple[str, dict[str, bool]] | None = None


ACTIVATIONS: dict[str, Activation] = {
    "gelu": Activation(
        module=nn.GELU,
        transformers=("gelu", "gelu_python"),
        timm=("gelu",),
        function=F.gelu,
        onednn=("gelu", "none"),
        flax=("gelu", {"approximate": False}),
    ),
    "gelu_tanh": Activation(
        module=partial(nn.GELU, approximate="tanh"),
        transformers=("gelu_pytorch_tanh", "gelu_python_tanh", "gelu_new", "gelu_fast", "gelu_accurate"),
        timm=("gelu_tanh",),
        function=partial(F.gelu, approximate="tanh"),
        onednn=("gelu", "tanh"),
        flax=("gelu", {"approximate": True}),
    ),
    "quick_gelu": Activation(module=QuickGELU, transformers=("quick_gelu",), timm=("quick_gelu",), function=quick_gelu),
    "relu": Activation(
        module=nn.ReLU,
        transformers=("relu",),
        timm=("relu",),
        function=F.relu,
        onednn=("relu", ""),
        flax=("relu", {}),
    ),
    "silu": Activation(
        module=nn.SiLU,
        transformers=("silu", "swish"),
        timm=("silu", "swish"),
        function=F.silu,
        onednn=("swish", ""),
        flax=("silu", {}),
    ),
    # Only configs of the transformers API can name these.
    "elu": Activation(module=nn.ELU, transformers=("elu",)),
    "gelu_clipped": Activation(module=ClippedGELUActivation, transformers=("gelu_10",)),
    "hardswish": Activation(module=nn.Hardswish, transformers=("hardswish",)),
    "identity": Activation(module=nn.Identity, transformers=("linear",)),
    "laplace": Activation(module=LaplaceActivation, transformers=("laplace",)),
    "leaky_relu": Activation(module=nn.LeakyReLU, transformers=("leaky_relu",)),
    "mish": Activation(module=nn.Mish, transformers=("mish",)),
    "prelu": Activation(module=nn.PReLU, transformers=("prelu",)),
    "relu6": Activation(module=nn.ReLU6, transformers=("relu6",)),
    "relu_squared": Activation(module=ReLUSquaredActivation, transformers=("relu2",)),
    "selu": Activation(module=nn.SELU, transformers=("selu",)),
    "sigmoid": Activation(module=nn.Sigmoid, transformers=("sigmoid",)),
    "sqrtsoftplus": Activation(module=SqrtSoftplusActivation, transformers=("sqrtsoftplus",)),
    "tanh": Activation(module=nn.Tanh, transformers=("tanh",)),
}
# Activations that a model config can name.
CORE = {name: each for name, each in ACTIVATIONS.items() if each.function is not None}


def activation(name: str) -> nn.Module:
    """Returns a new activation module by name. `gelu` is the exact GELU, and `gelu_tanh` its tanh approximation."""
    if name not in CORE:
        raise ValueError(f"unknown activation '{name}'; choose one of {', '.join(CORE)}")
    return CORE[name].module()


def activation_name(module: nn.Module) -> str | None:
    """Returns the name by which model configs select an activation module, or None if there is no such name."""
    return next((name for name, each in CORE.items() if repr(each.module()) == repr(module)), None)


def names_in(library: Literal["transformers", "timm"]) -> dict[str, str]:
    """Returns a dict that maps the activation names of a library to the names in model configs."""
    return {theirs: name for name, each in CORE.items() for theirs in getattr(each, library)}
