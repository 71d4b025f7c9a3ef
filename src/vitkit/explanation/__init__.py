"""Explanations of a model: attention maps, rollout, filters and others. Each method is a module.

An explanation consists of arrays and a `Drawing` of them. Each file also contains the tensor functions of its method
(`rollout.rollout`, `distance.attention_distance`, ...). These functions use only `TokenBackbone`, its blocks and
`Features`. The method `attention_weights` of a block takes the same arguments as `forward`, so every family, image size
and position bias works, and only the explained blocks compute attention weights outside the fused kernel. Only `_plots`
imports matplotlib.
"""

import inspect
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vitkit import atomic, screen
from vitkit.discovery import Component, PluginError
from vitkit.explanation import _plots
from vitkit.explanation._hooks import check_not_exported
from vitkit.explanation.drawings import Curve, Curves, Dots, Drawing, Map, Overlay, Tiles
from vitkit.images import ImageError
from vitkit.models import Backbone
from vitkit.registry import Registry, namespace
from vitkit.text import plural, shortened

# Names of the arrays that do not have one row per image.
_SHARED = frozenset({"distance", "filters", "layers", "similarity", "uniform", "variance"})


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
    """Result of an explanation method: named arrays, and a drawing that shows them.

    An explanation is a sequence with one explanation per image. Explanations of the model itself, or of all images
    together, have length 1. `errors` lists the errors of images that could not be read.
    """

    arrays: Mapping[str, np.ndarray]
    drawing: Drawing
    errors: tuple[ImageError, ...] = ()

    @property
    def maps(self) -> dict[str, np.ndarray]:
        """The maps in the drawing by name, of shape (images, rows, columns) or (images, rows, columns, 3).

        A map has one value or RGB color per patch. The dict is empty for explanations that are not drawn over images.
        """
        return {each.name: each.values for each in self.drawing.maps} if isinstance(self.drawing, Overlay) else {}

    def __len__(self) -> int:
        return len(self.drawing.images) if isinstance(self.drawing, Overlay) else 1

    def __getitem__(self, index: int | slice) -> "Explanation":
        rows = range(len(self))[index]
        chosen = slice(rows.start, rows.stop, rows.step) if isinstance(rows, range) else slice(rows, rows + 1)
        if not isinstance(self.drawing, Overlay):
            return self
        drawing = replace(
            self.drawing,
            images=self.drawing.images[chosen],
            captions=self.drawing.captions[chosen],
            maps=tuple(replace(each, values=each.values[chosen]) for each in self.drawing.maps),
        )
        arrays = {name: value if name in _SHARED else value[chosen] for name, value in self.arrays.items()}
        return Explanation(arrays=arrays, drawing=drawing)

    def __iter__(self) -> Iterator["Explanation"]:
        return (self[index] for index in range(len(self)))

    def image(self) -> Image.Image:
        """Returns the drawing as an RGB image."""
        return _plots.to_image(_plots.draw(self.drawing))

    def show(self) -> None:
        """Shows the drawing: in a notebook, in a window, or as text where there is no display."""
        screen.show(self, self.image, lambda: repr(self))

    def __repr__(self) -> str:
        arrays = ", ".join(f"{name} {value.shape}" for name, value in self.arrays.items())
        captions = self.drawing.captions if isinstance(self.drawing, Overlay) else ()
        images = f"; {plural(len(captions), 'image')}: {shortened(list(captions))}" if any(captions) else ""
        return f"Explanation({self.drawing.title!r}{images}; arrays: {arrays})"

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.image().save(file, "PNG")
        return file.getvalue()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the drawing as a .png file, or the arrays as an .npz file, by the suffix of the path."""
        suffix = Path(path).suffix.lower()
        if suffix not in (".png", ".npz"):
            raise ValueError(
                f"the output file is '{os.fspath(path)}'; its name must end in .png (drawing) or .npz (arrays)"
            )
        if suffix == ".npz":
            self.save_arrays(path)
        else:
            _plots.save(_plots.draw(self.drawing), path)

    def save_arrays(self, path: str | os.PathLike[str]) -> None:
        """Saves the arrays as a NumPy .npz file. Raises ValueError if the path has another suffix."""
        if Path(path).suffix.lower() != ".npz":
            raise ValueError(f"arrays are saved as a .npz file, but the path is '{os.fspath(path)}'")
        atomic.write_file(Path(path), self._compress)

    def _compress(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, **dict[str, Any](self.arrays))


def _validate(module: ModuleType) -> None:
    """Raises PluginError if `explain` of a method cannot be called with `ExplainInputs`."""
    if not callable(module.explain) or not inspect.signature(module.explain).parameters:
        raise PluginError(f"explain is {module.explain!r}; expected a function explain(subject, *, option=default)")


def _adapt(component: Component) -> ModuleType:
    """Wraps a function `explain(subject, *, option=default)` as the module of an explanation method."""
    return namespace(component, explain=component.target)


_METHODS = Registry(__name__, "explanation", {"explain": "a function explain(subject, *, option=default)"},
                    ("drawings",), plugin_kind="explanation", adapt=_adapt, validate=_validate)  # fmt: skip


def methods() -> list[str]:
    """Returns the names of all explanation methods."""
    return _METHODS.names()


def explain(method: str, subject: ExplainInputs, **options: object) -> Explanation:
    """Runs an explanation method, given by its name or as an object of a file (`./mine.py:saliency`).

    Raises ValueError if the method or an option is unknown.
    """
    function = _METHODS.find(method).explain
    check_not_exported(subject.model)
    known = list(inspect.signature(function).parameters)[1:]
    for name in options:
        if name not in known:
            raise ValueError(
                f"the method '{method}' has no option '{name}'; its options are: {', '.join(known) or 'none'}"
            )
    found = function(subject, **options)
    if not isinstance(found, Explanation):
        raise PluginError(f"the method '{method}' returned {type(found).__name__}; expected an Explanation")
    return found


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
