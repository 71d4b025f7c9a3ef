"""Where a model runs, and what runs of one that the engine has nothing to do with."""

import copy

import torch

from vitkit import engine
from vitkit.engine.path import TYPES
from vitkit.models import Backbone


def device_of(name: str) -> torch.device:
    """The torch device that a word means, auto a GPU if there is one; ValueError that lists those that are here."""
    here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    here += ["mps"] if torch.backends.mps.is_available() else []
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and torch.cuda.is_available():
        return torch.device("cuda")
    if name not in here:
        raise ValueError(f"there is no device '{name}' here; there is auto, {', '.join(here)}")
    return torch.device(name)


def placed(model: Backbone, device: torch.device) -> Backbone:
    """The model on that device; a copy where the caller's own would move."""
    return model if next(model.parameters()).device == device else copy.deepcopy(model).to(device)


def as_it_is(model: Backbone, precision: str) -> engine.Engine:
    """A model that is in another type than float32 already, or that is none of ours, in the precision it is asked for.

    ValueError for one that only the engine can give.
    """
    own = next(model.parameters()).dtype
    wanted = TYPES.get(precision, own) if precision != "auto" else own
    if precision == "int8":
        raise ValueError(f"int8 is made of a model in float32; this one is in {str(own).removeprefix('torch.')}")
    name = str(wanted).removeprefix("torch.")
    if wanted != own:
        model = copy.deepcopy(model).to(wanted)
    return engine.Engine(
        model, name, False, 0.0, f"{name}, step by step: the model came in {str(own).removeprefix('torch.')}"
    )
