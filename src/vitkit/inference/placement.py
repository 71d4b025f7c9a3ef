"""Moves a model to a device and converts its dtype, without the inference engine."""

import copy

import torch

from vitkit.inference import engine
from vitkit.inference.engine.path import TYPES
from vitkit.models import Backbone


def find_device(name: str) -> torch.device:
    """Returns a torch device by name. `auto` selects a GPU if available. Raises ValueError for a missing device."""
    available = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    available += ["mps"] if torch.backends.mps.is_available() else []
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and torch.cuda.is_available():
        return torch.device("cuda")
    if name not in available:
        raise ValueError(
            f"the device '{name}' is not available on this machine; choose one of auto, {', '.join(available)}"
        )
    return torch.device(name)


def to_device(model: Backbone, device: torch.device) -> Backbone:
    """Returns the model itself if it is on the device, otherwise a copy on the device."""
    return model if next(model.parameters()).device == device else copy.deepcopy(model).to(device)


def keep_operations(model: Backbone, precision: str) -> engine.Accelerated:
    """Returns the model in the requested precision, with its original layers instead of fused layers.

    For models that the engine does not support: exported, or not in float32. Raises ValueError for int8, which needs
    the engine.
    """
    own = next(model.parameters()).dtype
    wanted = TYPES.get(precision, own) if precision != "auto" else own
    if precision == "int8":
        raise ValueError(f"int8 needs a model in float32, not in {str(own).removeprefix('torch.')}")
    name = str(wanted).removeprefix("torch.")
    if wanted != own:
        model = copy.deepcopy(model).to(wanted)
    summary = f"{name}, eager: the model is in {str(own).removeprefix('torch.')}"
    return engine.Accelerated(model, name, False, 0.0, summary)
