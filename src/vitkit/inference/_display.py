"""Shows results: as HTML in a notebook, as images in a window, or as text."""

import base64
import html as escaping
import io
import os
from collections.abc import Sequence
from typing import Protocol

from PIL import Image, ImageDraw, ImageFont

from vitkit import screen
from vitkit.data.processor import ImageInput
from vitkit.images import ImageError, Unlisted, open_image, to_rgb
from vitkit.inference.predictions import Prediction
from vitkit.task import Function
from vitkit.text import fit, percent, plural, printable

# Side length of a thumbnail in pixels, and largest number of images shown in a notebook or a window.
SIDE = 224
MOST = 20
_COLUMNS = 4
_LINE = 15


class Shown(Protocol):
    """Protocol of a result that can be shown: the name of the image, the input image, and lines of text."""

    @property
    def name(self) -> str:
        """Name of the image."""
        ...

    @property
    def image(self) -> ImageInput:
        """The input image, as it was passed to vitkit."""
        ...

    def lines(self) -> list[str]:
        """Returns the output as lines of text."""
        ...


def prediction_line(prediction: Prediction, function: Function) -> str:
    """Formats a prediction as one line: score, bar and label, or value and label for regression."""
    label = printable(prediction.label)
    if prediction.value is not None:
        return f"{prediction.value:12.6g}  {label}"
    filled = round(20 * prediction.score)
    mark = "" if function == "softmax" else "* " if prediction.predicted else "  "
    return f"{percent(prediction.score):>7}  {'#' * filled}{'.' * (20 - filled)}  {mark}{label}"


def table(results: Sequence[Shown], width: int | None = None) -> str:
    """Formats results as text. If `width` is given, lines are shortened to this number of terminal columns."""
    lines: list[str] = []
    for each in results:
        lines.append(printable(each.name))
        lines += [f"  {line}" for line in each.lines()]
    return "\n".join(lines if width is None else [fit(line, width) for line in lines])


def show(results: Sequence[Shown], shown: object) -> None:
    """Shows results in a notebook, in a window, or as text on standard output."""
    width = screen.terminal_width()
    if results:
        screen.show(shown, lambda: sheet(results[:MOST]), lambda: table(results, width))
    else:
        print("no images")


def thumbnail(image: ImageInput, side: int = SIDE) -> Image.Image | None:
    """Returns a thumbnail of at most `side` pixels per side, or None if the image cannot be shown."""
    try:
        if isinstance(image, Unlisted):
            return None
        file = isinstance(image, str | bytes | bytearray | memoryview | os.PathLike) or hasattr(image, "read")
        found = open_image(image) if file else to_rgb(image)
    except (ImageError, ValueError, TypeError):
        return None
    found = found.convert("RGB")
    found.thumbnail((side, side))
    return found


def sheet(results: Sequence[Shown]) -> Image.Image:
    """Draws all images in a grid, with the output of each image below it."""
    cells = [(thumbnail(each.image), [printable(each.name), *each.lines()]) for each in results]
    below = _LINE * max(len(lines) for _, lines in cells) + 8
    across = min(_COLUMNS, len(cells))
    down = -(-len(cells) // across)
    step, high = SIDE + 40, SIDE + below + 12
    page = Image.new("RGB", (across * step, down * high), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for index, (image, lines) in enumerate(cells):
        left, top = index % across * step + 8, index // across * high + 8
        if image is not None:
            page.paste(image, (left, top))
        for number, line in enumerate(lines):
            text = fit(line.replace("#", "").replace("..", ""), 38)
            draw.text((left, top + SIDE + 4 + number * _LINE), text, "black", font)
    return page


def html(results: Sequence[Shown], title: str) -> str:
    """Returns results as an HTML table without scripts. Names and labels are escaped."""
    rows = [_html_row(each) for each in results[:MOST]]
    more = f"<p>and {plural(len(results) - MOST, 'more image')}</p>" if len(results) > MOST else ""
    heading = f"<p>{escaping.escape(title)}</p>" if title else ""
    return f'{heading}<table style="text-align:left">{"".join(rows)}</table>{more}'


def _html_row(result: Shown) -> str:
    image = thumbnail(result.image)
    tag = ""
    if image is not None:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=85)
        data = base64.b64encode(file.getvalue()).decode()
        tag = f'<img alt="" src="data:image/jpeg;base64,{data}">'
    lines = "\n".join(escaping.escape(line) for line in result.lines())
    name = escaping.escape(printable(result.name))
    return f"<tr><td>{tag}</td><td><b>{name}</b><pre>{lines}</pre></td></tr>"
