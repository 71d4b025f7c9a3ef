"""Explain: what a model looks at. One file an explanation; its `explain(subject, *, options) -> Explanation`.

An explanation is arrays for code and a `Drawing` for people. The files also hold the tensor functions behind them
(`rollout.rollout`, `distance.attention_distance`, ...). They read `TokenBackbone`, its blocks and `Features` alone: a
block's `attention_weights` takes what its `forward` takes, so any family, image size and position bias works, and only
the blocks looked at leave the fused kernel. `plots` alone imports matplotlib.
"""

import inspect
import os
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vitkit import atomic
from vitkit.config import nearest
from vitkit.models import Backbone


@dataclass(frozen=True)
class Subject:
    """A model and the images to explain it on; `subject.read` makes one of files.

    `pixels` are normalised images on the model's device, `pictures` what the model sees of each, large enough for
    people. Explanations of the weights alone need no image.
    """

    model: Backbone
    pixels: Float[Tensor, "b c height width"]
    pictures: tuple[Image.Image, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Map:
    """One number for each patch of each picture, drawn over the picture.

    `heat` colours it, `light` darkens the picture in proportion (ViT paper, Figure 6), `mask` keeps patches above zero.
    """

    name: str
    values: Float[np.ndarray, "b rows columns"]
    style: Literal["heat", "light", "mask"] = "heat"


@dataclass(frozen=True)
class Overlay:
    """Pictures, one a row, each beside its maps."""

    title: str
    pictures: tuple[Image.Image, ...]
    captions: tuple[str, ...]
    maps: tuple[Map, ...]


@dataclass(frozen=True)
class Tiles:
    """Small pictures in rows and columns: grey values on a common scale from `low` to 1, or colours in 0..1."""

    title: str
    tiles: Float[np.ndarray, "down across rows columns *rgb"]
    x_label: str = ""
    y_label: str = ""
    scale: str = ""
    low: float = -1.0


@dataclass(frozen=True)
class Dots:
    """One number for each head of each layer, and the level that attention to everything alike would have."""

    title: str
    values: Float[np.ndarray, "layers heads"]
    y_label: str
    uniform: float


@dataclass(frozen=True)
class Curve:
    """Points of one kind, left to right; `spread` is half the length of each one's error bar."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    spread: tuple[float, ...] = ()
    joined: bool = True


@dataclass(frozen=True)
class Curves:
    """Numbers against numbers, or against things by name: then x counts `x_names` from 0."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    x_names: tuple[str, ...] = ()
    log_x: bool = False


Drawing = Overlay | Tiles | Dots | Curves


@dataclass(frozen=True)
class Explanation:
    """What was found: named arrays for code, a drawing for people."""

    arrays: Mapping[str, np.ndarray]
    drawing: Drawing

    def save(self, path: str | os.PathLike[str]) -> None:
        """Draws it into a PNG file."""
        from vitkit.explain import plots

        plots.save(plots.draw(self.drawing), path)

    def save_arrays(self, path: str | os.PathLike[str]) -> None:
        """Writes the arrays into an .npz file."""
        if Path(path).suffix != ".npz":
            raise ValueError(f"arrays are written into an .npz file, not '{os.fspath(path)}'")
        atomic.write_file(Path(path), self._compress)

    def _compress(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, **dict[str, Any](self.arrays))


# What explanations are made with, not explanations.
_MEANS = {"look", "plots", "subject"}


def methods() -> list[str]:
    """The names of the explanations: the files of this folder, but for the means they share."""
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - _MEANS)


def explain(method: str, subject: Subject, **options: Any) -> Explanation:
    """The explanation of that name; ValueError for an unknown one and for an option that it does not take."""
    if method not in methods():
        raise ValueError(f"unknown explanation '{method}'{nearest(method, methods())}; there is {', '.join(methods())}")
    function = import_module(f"{__name__}.{method}").explain
    known = [name for name in inspect.signature(function).parameters if name != "subject"]
    for name in options:
        if name not in known:
            raise ValueError(f"'{method}' takes no option '{name}'; it takes {', '.join(known) or 'none'}")
    return function(subject, **options)


__all__ = [
    "Curve",
    "Curves",
    "Dots",
    "Drawing",
    "Explanation",
    "Map",
    "Overlay",
    "Subject",
    "Tiles",
    "explain",
    "methods",
]
