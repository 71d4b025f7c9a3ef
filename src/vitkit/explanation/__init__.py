"""Explanations of a model: attention maps, rollout, filters and others. Each method is a module.

An explanation consists of arrays and a `Drawing` of them. Each file also contains the tensor functions of its method
(`rollout.rollout`, `distance.attention_distance`, ...). They use only `TokenBackbone`, its blocks and `Features`. A
block's `attention_weights` takes the same arguments as its `forward`, so every family, image size and position bias
works, and only the explained blocks compute attention weights outside the fused kernel. Only `plots` imports
matplotlib.
"""

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vitkit import atomic
from vitkit.explanation import _plots
from vitkit.explanation.drawings import Curve, Curves, Dots, Drawing, Map, Overlay, Tiles
from vitkit.models import Backbone
from vitkit.registry import Registry

_METHODS = Registry(__name__, "explanation", ("explain",), exclude=("drawings",))


@dataclass(frozen=True)
class ExplainInputs:
    """Inputs of an explanation method: a model, preprocessed images, and the same images for display.

    `pixels` are the preprocessed images on the model's device. `images` show the same parts of the images at a higher
    resolution, for display. Explanations of the weights alone need no image.
    """

    model: Backbone
    pixels: Float[Tensor, "b c height width"]
    images: tuple[Image.Image, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """Result of an explanation method: named arrays, and a drawing that shows them."""

    arrays: Mapping[str, np.ndarray]
    drawing: Drawing

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the drawing as a PNG file."""
        _plots.save(_plots.draw(self.drawing), path)

    def save_arrays(self, path: str | os.PathLike[str]) -> None:
        """Saves the arrays as a NumPy .npz file. Raises ValueError if the path has another suffix."""
        if Path(path).suffix != ".npz":
            raise ValueError(f"arrays are saved as a .npz file, but the path is '{os.fspath(path)}'")
        atomic.write_file(Path(path), self._compress)

    def _compress(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, **dict[str, Any](self.arrays))


def methods() -> list[str]:
    """Returns the names of all explanation methods."""
    return _METHODS.names()


def explain(method: str, subject: ExplainInputs, **options: object) -> Explanation:
    """Runs an explanation method. Raises ValueError if the method or an option is unknown."""
    function = _METHODS.get(method).explain
    known = [name for name in inspect.signature(function).parameters if name != "subject"]
    for name in options:
        if name not in known:
            raise ValueError(
                f"the method '{method}' has no option '{name}'; its options are: {', '.join(known) or 'none'}"
            )
    return function(subject, **options)


__all__ = [
    "Curve",
    "Curves",
    "Dots",
    "Drawing",
    "ExplainInputs",
    "Explanation",
    "Map",
    "Overlay",
    "Tiles",
    "explain",
    "methods",
]
