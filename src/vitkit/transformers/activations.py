"""Activation modules with the names and the class names of transformers."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vitkit.layers.activations import ACTIVATIONS, QuickGELU


class GELUActivation(nn.GELU):
    """Exact GELU."""

    def extra_repr(self) -> str:
        """Returns an empty string, as in transformers."""
        return ""


class GELUTanh(GELUActivation):
    """GELU in the tanh approximation."""

    def __init__(self) -> None:
        super().__init__(approximate="tanh")


class NewGELUActivation(GELUTanh):
    """GELU in the tanh approximation, as in Google's BERT."""


class FastGELUActivation(GELUTanh):
    """GELU in the tanh approximation. Unlike in transformers, the constants are not rounded."""


class AccurateGELUActivation(GELUTanh):
    """GELU in the tanh approximation, as in MEGA."""


class QuickGELUActivation(QuickGELU):
    """Approximation of GELU by a sigmoid."""


class SiLUActivation(nn.SiLU):
    """SiLU, also called swish."""


class MishActivation(nn.Mish):
    """Mish."""


class LinearActivation(nn.Identity):
    """Identity."""


class XIELUActivation(nn.Module):
    """Trainable activation (Huang and Schlag 2024): quadratic for positive inputs, exponential for negative inputs.

    The parameters are those of transformers, in bfloat16 unless the model is converted.
    """

    POSITIVE, NEGATIVE, BETA, EPS = 0.8, 0.8, 0.5, -1e-6

    def __init__(self) -> None:
        super().__init__()
        self.alpha_p = nn.Parameter(torch.empty(1, dtype=torch.bfloat16))
        self.alpha_n = nn.Parameter(torch.empty(1, dtype=torch.bfloat16))
        self.beta: Tensor
        self.eps: Tensor
        self.register_buffer("beta", torch.empty((), dtype=torch.bfloat16))
        self.register_buffer("eps", torch.empty((), dtype=torch.bfloat16))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Sets the parameters and buffers to their initial values."""
        for alpha, initial in ((self.alpha_p, self.POSITIVE), (self.alpha_n, self.NEGATIVE - self.BETA)):
            alpha.copy_(torch.tensor(initial, dtype=torch.bfloat16).expm1().log())
        self.beta.fill_(self.BETA)
        self.eps.fill_(self.EPS)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Applies the activation to each element."""
        positive = F.softplus(self.alpha_p) * x * x
        negative = (torch.expm1(torch.min(x, self.eps)) - x) * (self.beta + F.softplus(self.alpha_n))
        return torch.where(x > 0, positive, negative) + self.beta * x


# The classes of transformers, by the first name that it gives them. Other activations have torch's classes there.
OWN_CLASSES: list[tuple[type[nn.Module], str]] = [
    (GELUActivation, "gelu"),
    (GELUActivation, "gelu_python"),
    (GELUTanh, "gelu_pytorch_tanh"),
    (GELUTanh, "gelu_python_tanh"),
    (NewGELUActivation, "gelu_new"),
    (FastGELUActivation, "gelu_fast"),
    (AccurateGELUActivation, "gelu_accurate"),
    (QuickGELUActivation, "quick_gelu"),
    (SiLUActivation, "silu"),
    (MishActivation, "mish"),
    (LinearActivation, "linear"),
    (XIELUActivation, "xielu"),
]
ACTIVATION_MODULES: dict[str, Callable[[], nn.Module]] = {
    name: each.module for each in ACTIVATIONS.values() for name in each.transformers
} | {name: module for module, name in OWN_CLASSES}


def make_activation(name: str) -> nn.Module:
    """Creates an activation by its name in transformers. Raises ValueError if the name is unknown."""
    if name not in ACTIVATION_MODULES:
        raise ValueError(f"unknown activation '{name}'; expected one of {', '.join(sorted(ACTIVATION_MODULES))}")
    return ACTIVATION_MODULES[name]()
