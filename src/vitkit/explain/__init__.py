"""Explanations of a model's predictions; each file with an `explain` function is one method.

An explanation consists of arrays and a `Drawing` of them. Each file also contains the tensor functions of its method
(`rollout.rollout`, `distance.attention_distance`, ...). They use only `TokenBackbone`, its blocks and `Features`. A
block's `attention_weights` takes the same arguments as its `forward`, so every family, image size and position bias
works, and only the explained blocks compute attention weights outside the fused kernel. Only `plots` imports
matplotlib.
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
    """A model and the images on which to explain it; `subject.read` creates one from files.

    `pixels` are the preprocessed images on the model's device. `pictures` show the same parts of the images at a higher
    resolution, for display. Explanations of the weights alone need no image.
    """

    model: Backbone
    pixels: Float[Tensor, "b c height width"]
    pictures: tuple[Image.Image, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Map:
    """One value per patch of each image, displayed over the image.

    Style `heat` is a heat map, `light` multiplies the image by the map (ViT paper, Figure 6), and `mask` shows the
    patches above zero.
    """

    name: str
    values: Float[np.ndarray, "b rows columns"]
    style: Literal["heat", "light", "mask"] = "heat"


@dataclass(frozen=True)
class Overlay:
    """A grid with one row per image: the image and its maps."""

    title: str
    images: tuple[Image.Image, ...]
    captions: tuple[str, ...]
    maps: tuple[Map, ...]


@dataclass(frozen=True)
class Tiles:
    """A grid of small images with scalar values from `low` to 1 or RGB values in 0..1."""

    title: str
    tiles: Float[np.ndarray, "down across rows columns *rgb"]
    x_label: str = ""
    y_label: str = ""
    scale: str = ""
    low: float = -1.0


@dataclass(frozen=True)
class Dots:
    """A scatter plot of values by head and layer; `uniform` is that of uniform attention."""

    title: str
    values: Float[np.ndarray, "layers heads"]
    y_label: str
    uniform: float


@dataclass(frozen=True)
class Curve:
    """A series of points; `spread` is half the length of the error bars, `joined` draws lines."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    spread: tuple[float, ...] = ()
    joined: bool = True


@dataclass(frozen=True)
class Curves:
    """A line plot of several series; if `x_names` is given, x values are indices into it."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    x_names: tuple[str, ...] = ()
    log_x: bool = False


Drawing = Overlay | Tiles | Dots | Curves


@dataclass(frozen=True)
class Explanation:
    """The result of an explanation method: named arrays and a drawing of them."""

    arrays: Mapping[str, np.ndarray]
    drawing: Drawing

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the drawing as a PNG file."""
        from vitkit.explain import plots

        plots.save(plots.draw(self.drawing), path)

    def save_arrays(self, path: str | os.PathLike[str]) -> None:
        """Saves the arrays as an .npz file. Raises ValueError for a path with another suffix."""
        if Path(path).suffix != ".npz":
            raise ValueError(f"arrays are saved as an .npz file, not '{os.fspath(path)}'")
        atomic.write_file(Path(path), self._compress)

    def _compress(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, **dict[str, Any](self.arrays))


# Files of this folder that are not explanation methods.
_HELPERS = {"look", "plots", "subject"}


def methods() -> list[str]:
    """Returns the names of all explanation methods."""
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - _HELPERS)


def explain(method: str, subject: Subject, **options: object) -> Explanation:
    """Runs an explanation method. Raises ValueError for an unknown method or option."""
    if method not in methods():
        raise ValueError(
            f"unknown explanation '{method}'{nearest(method, methods())}; choose from {', '.join(methods())}"
        )
    function = import_module(f"{__name__}.{method}").explain
    known = [name for name in inspect.signature(function).parameters if name != "subject"]
    for name in options:
        if name not in known:
            raise ValueError(f"'{method}' takes no option '{name}'; its options are: {', '.join(known) or 'none'}")
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
