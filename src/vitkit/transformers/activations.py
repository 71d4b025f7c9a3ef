"""Activation modules with the names and the class names of transformers."""

from collections.abc import Callable

from torch import nn

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
]
ACTIVATION_MODULES: dict[str, Callable[[], nn.Module]] = {
    name: each.module for each in ACTIVATIONS.values() for name in each.transformers
} | {name: module for module, name in OWN_CLASSES}


def make_activation(name: str) -> nn.Module:
    """Creates an activation by its name in transformers. Raises ValueError if the name is unknown."""
    if name not in ACTIVATION_MODULES:
        raise ValueError(f"unknown activation '{name}'; expected one of {', '.join(sorted(ACTIVATION_MODULES))}")
    return ACTIVATION_MODULES[name]()
