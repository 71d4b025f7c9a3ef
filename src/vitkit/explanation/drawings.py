"""Drawings of explanations: overlays of maps on images, tiles, scatter plots and line plots."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from PIL import Image


@dataclass(frozen=True)
class Map:
    """A map with one value (or color) per patch of each image, which is drawn over the image.

    Style `heat` is a heat map, `light` multiplies the image by the map (ViT paper, Figure 6), and `mask` shows the
    patches above zero. Style `rgb` shows three values from 0 to 1 per patch as a color, without the image.
    """

    name: str
    values: Float[np.ndarray, "b rows columns *rgb"]
    style: Literal["heat", "light", "mask", "rgb"] = "heat"


@dataclass(frozen=True)
class Overlay:
    """A figure with one row per image, which shows the image and its maps."""

    title: str
    images: tuple[Image.Image, ...]
    captions: tuple[str, ...]
    maps: tuple[Map, ...]


@dataclass(frozen=True)
class Tiles:
    """A grid of small images, with scalar values from `low` to 1 or RGB values from 0 to 1."""

    title: str
    tiles: Float[np.ndarray, "down across rows columns *rgb"]
    x_label: str = ""
    y_label: str = ""
    scale: str = ""
    low: float = -1.0


@dataclass(frozen=True)
class Dots:
    """A scatter plot of one value per head and layer. `uniform` is the value for uniform attention."""

    title: str
    values: Float[np.ndarray, "layers heads"]
    y_label: str
    uniform: float


@dataclass(frozen=True)
class Curve:
    """A series of points in a plot, optionally joined by lines. `spread` is half the length of the error bars."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    spread: tuple[float, ...] = ()
    joined: bool = True


@dataclass(frozen=True)
class Curves:
    """A line plot of several series. If `x_names` is given, x values are indices into it."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    x_names: tuple[str, ...] = ()
    log_x: bool = False


Drawing = Overlay | Tiles | Dots | Curves
