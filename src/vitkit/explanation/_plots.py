"""Draws explanations as Matplotlib figures, without the global state of pyplot."""

import os
import textwrap
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from vitkit import atomic
from vitkit.explanation.drawings import Curves, Dots, Overlay, Tiles

#: Pixels per inch. The sizes below are in inches.
DPI = 120
CELL = 3.0
MARGIN = 0.15
TITLE = 0.4
CAPTION = 0.3
FOOTER = 0.5
MAX_COLUMNS = 7
HEAT = "inferno"
#: Tint of the patches outside a mask.
OUTSIDE = (0.2, 0.1, 0.35)


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Saves a figure as a PNG file. Raises ValueError if the path has another suffix."""
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"figures are saved as .png files, but the path is '{os.fspath(path)}'")
    # Without matplotlib's version in the metadata, equal figures give equal files.
    options: Any = {"dpi": DPI, "format": "png", "metadata": {"Software": None}}
    atomic.write_file(Path(path), lambda part: figure.savefig(part, **options))


def to_image(figure: Figure) -> Image.Image:
    """Returns a figure as an RGB image."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def blank(width: float, height: float, title: str) -> tuple[Figure, float]:
    """Returns an empty figure with a title, and its total height in inches, including the title."""
    # About nine and a half bold letters fit in an inch.
    lines = textwrap.wrap(title, max(1, int(9.5 * (width - 2 * MARGIN)))) or [""]
    total = height + TITLE + 0.22 * (len(lines) - 1)
    figure = Figure(figsize=(width, total), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    text = "\n".join(lines)
    figure.text(MARGIN / width, 1 - 0.12 / total, text, ha="left", va="top", size=12, weight="bold")
    return figure, total


@singledispatch
def draw(drawing: object) -> Figure:
    """Draws a `drawing`, such as `Overlay` or `Curves`, as a Matplotlib figure."""
    raise TypeError(f"cannot draw a {type(drawing).__name__}; expected a drawing from vitkit.explanation")


@draw.register
def _(drawing: Overlay) -> Figure:
    cells = 1 + len(drawing.maps)
    across = min(cells, MAX_COLUMNS)
    lines = -(-cells // across)
    heights = [CELL * min(max(image.height / image.width, 0.5), 2.0) + CAPTION for image in drawing.images]
    footer = FOOTER if any(each.style == "heat" for each in drawing.maps) else MARGIN
    width = across * (CELL + MARGIN) + MARGIN
    top = lines * sum(heights) + footer
    figure, height = blank(width, top, drawing.title)
    for index, (image, cell) in enumerate(zip(drawing.images, heights, strict=True)):
        shown = [(drawing.captions[index] or "image", image)]
        shown += [(each.name, overlay(image, each.values[index], each.style)) for each in drawing.maps]
        for position, (caption, pixels) in enumerate(shown):
            left = MARGIN + (position % across) * (CELL + MARGIN)
            bottom = top - (position // across + 1) * cell
            axes = figure.add_axes((left / width, bottom / height, CELL / width, (cell - CAPTION) / height))
            axes.imshow(pixels, interpolation="lanczos")
            axes.set_axis_off()
            axes.set_title(_short(caption), size=9, pad=3)
        top -= lines * cell
    if footer == FOOTER:
        _heat_key(figure, width, height)
    return figure


def _heat_key(figure: Figure, width: float, height: float) -> None:
    axes = figure.add_axes((MARGIN / width, 0.22 / height, 1.2 / width, 0.12 / height))
    axes.imshow(np.linspace(0, 1, 128)[None], aspect="auto", cmap=HEAT)
    axes.set_axis_off()
    text = "minimum to 98th percentile of each map"
    figure.text((MARGIN + 1.3) / width, 0.28 / height, text, ha="left", va="center", size=8)


def _short(text: str, most: int = 38) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def overlay(
    image: Image.Image, values: Float[np.ndarray, "rows columns *rgb"], style: str = "heat"
) -> Float[np.ndarray, "height width 3"]:
    """Draws a patch map over an image in one of the styles of `Map`. Returns RGB values between 0 and 1."""
    if style == "rgb":
        pixels = Image.fromarray((values * 255).round().astype(np.uint8))
        return np.asarray(pixels.resize(image.size, Image.Resampling.NEAREST), dtype=np.float32) / 255
    colors = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    scaled = _scale(values, style)
    smooth = Image.Resampling.NEAREST if style == "mask" else Image.Resampling.BICUBIC
    strength = np.asarray(Image.fromarray(scaled.astype(np.float32)).resize(image.size, smooth)).clip(0, 1)[..., None]
    if style == "light":
        return colors * strength
    gray = colors.mean(axis=-1, keepdims=True)
    if style == "mask":
        return np.where(strength > 0, colors, 0.4 * gray + np.array(OUTSIDE, dtype=np.float32))
    heat = colormaps[HEAT](strength[..., 0])[..., :3]
    # The image is darkened, so that its white areas do not look like heat.
    cover = 0.15 + 0.55 * strength
    return (1 - cover) * 0.6 * gray + cover * heat


def _scale(values: np.ndarray, style: str) -> np.ndarray:
    """Scales the values of a map linearly to the range from 0 to 1.

    Heat ranges from the minimum, because rollout is positive everywhere, to the 98th percentile, because single patches
    can have very high values. Light is relative to the maximum, as in the paper.
    """
    low, high = (values.min(), np.quantile(values, 0.98)) if style == "heat" else (0.0, values.max())
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)


@draw.register
def _(drawing: Tiles) -> Figure:
    down, across, rows, columns = drawing.tiles.shape[:4]
    gap = max(1, round(0.08 * rows))
    colored = drawing.tiles.ndim == 5
    sheet = np.full((down * (rows + gap) - gap, across * (columns + gap) - gap, *drawing.tiles.shape[4:]), np.nan)
    for y in range(down):
        for x in range(across):
            top, left = y * (rows + gap), x * (columns + gap)
            sheet[top : top + rows, left : left + columns] = drawing.tiles[y, x]
    labels = 0.5 if drawing.x_label else MARGIN
    bar = 0 if colored else 1.0
    side = 6.0
    high = side * sheet.shape[0] / sheet.shape[1]
    width = labels + side + MARGIN + bar
    figure, height = blank(width, high + labels, drawing.title)
    axes = figure.add_axes((labels / width, labels / height, side / width, high / height))
    sheet = np.nan_to_num(sheet, nan=1.0) if colored else np.ma.masked_invalid(sheet)
    mesh = axes.imshow(sheet, interpolation="nearest", vmin=drawing.low, vmax=1, cmap="viridis", aspect="auto")
    axes.set(xticks=[], yticks=[], xlabel=drawing.x_label, ylabel=drawing.y_label)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if not colored:
        color_bar = figure.add_axes(((labels + side + MARGIN) / width, labels / height, 0.18 / width, high / height))
        figure.colorbar(mesh, cax=color_bar).set_label(drawing.scale)
    return figure


@draw.register
def _(drawing: Dots) -> Figure:
    layers, heads = drawing.values.shape
    width, high = 6.4, 4.2
    figure, height = blank(width, high, drawing.title)
    axes = figure.add_axes((0.8 / width, 0.6 / height, (width - 0.95) / width, (high - 0.7) / height))
    colors = colormaps["viridis"](np.linspace(0, 0.9, heads))
    for head in range(heads):
        label = f"head {head}" if heads <= 6 else None
        axes.scatter(range(layers), drawing.values[:, head], s=22, color=colors[head], label=label, zorder=3)
    axes.plot(range(layers), drawing.values.mean(axis=1), color="0.55", linewidth=1.2, label="mean of heads")
    axes.axhline(drawing.uniform, color="0.55", linestyle="--", linewidth=1, label="uniform attention")
    axes.set(xlabel="layer", ylabel=drawing.y_label, ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    return figure


@draw.register
def _(drawing: Curves) -> Figure:
    below = 0.6 if not drawing.x_names else 0.3 + 0.06 * max(map(len, drawing.x_names))
    width, high = 6.4, 3.6 + below
    figure, height = blank(width, high, drawing.title)
    axes = figure.add_axes((0.8 / width, below / height, (width - 0.95) / width, (high - below - 0.1) / height))
    colors = colormaps["viridis"](np.linspace(0, 0.9, max(2, len(drawing.curves))))
    for position, curve in enumerate(drawing.curves):
        spread = curve.spread if curve.spread and np.isfinite(curve.spread).all() else None
        style = {"marker": "os^Dv<>P"[position % 8], "markersize": 5, "linewidth": 1.2, "capsize": 2}
        line = "-" if curve.joined and not drawing.x_names else "none"
        axes.errorbar(curve.x, curve.y, spread, color=colors[position], label=curve.name, linestyle=line, **style)
    if drawing.x_names:
        axes.set_xticks(range(len(drawing.x_names)), drawing.x_names, rotation=45, ha="right", fontsize=8)
    if drawing.log_x:
        axes.set_xscale("log")
    axes.set(xlabel="" if drawing.x_names else drawing.x_label, ylabel=drawing.y_label)
    axes.grid(alpha=0.25)
    if len(drawing.curves) > 1:
        axes.legend(frameon=False, fontsize=8)
    return figure
