"""The gallery of mistakes in a report: its data, its HTML and its script (`gallery.js`).

The script reads the data from a JSON element of the page and builds the cards when they are scrolled into view. Without
JavaScript the page shows a table of the first mistakes.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Literal

from vitkit.text import printable

SCRIPT = files("vitkit.report").joinpath("gallery.js").read_text(encoding="utf-8")
PLAIN_ROWS = 50  # mistakes in the table for browsers without JavaScript

Row = tuple[str, list[int] | list[float], list[int] | list[float], float, float, float]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The mistakes of a model, for the gallery.

    rows     key, true labels, predicted labels, confidence, score of the true labels, and loss of each image. Labels
             are class indices. For a regression, labels are numbers, and the confidence is the error in standard
             deviations of the target
    choices  index and name of each class of the data, to which an image can be relabeled
    images   thumbnail of each image as a data URI, or None
    maps     number of rows, number of columns and base64 values (see `attention.encoded_map`) of each image, or None
    """

    kind: Literal["single", "multi", "regression"]
    names: Sequence[str]
    choices: Sequence[tuple[int, str]]
    split: str
    rows: Sequence[Row]
    images: Sequence[str | None] = ()
    maps: Sequence[tuple[int, int, str] | None] = ()

    def to_json(self) -> str:
        """Returns the data of the script as JSON that is safe to embed in a script element."""
        used = {index for _, true, found, *_ in self.rows for index in (*true, *found)}
        rows = []
        for number, (key, true, found, *numbers) in enumerate(self.rows):
            row: list[object] = [key, true, [_finite(value) for value in found], *map(_finite, numbers)]
            image = self.images[number] if number < len(self.images) else None
            rows.append([*row, image, self.maps[number] if image is not None and number < len(self.maps) else None])
        regression = self.kind == "regression"
        content = {
            "kind": self.kind,
            "split": self.split,
            "classes": {} if regression else {index: name for index, name in enumerate(self.names) if index in used},
            "targets": list(self.names) if regression else [],
            "choices": [] if regression else list(self.choices),
            "rows": rows,
        }
        text = json.dumps([(key, true) for key, true, *_ in self.rows])
        content["id"] = hashlib.sha256(text.encode()).hexdigest()[:16]
        # Escaped, so that the text can neither end the script element nor begin an HTML comment.
        return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e")


def _finite(value: float) -> float | None:
    """Returns a number with six digits, or None if it is infinite or NaN, which JSON does not support."""
    return (value if isinstance(value, int) else float(f"{value:.6g}")) if math.isfinite(value) else None


def html(gallery: Gallery) -> str:
    """Returns the HTML of a gallery. The page must contain `SCRIPT`."""
    regression = gallery.kind == "regression"
    filters = ""
    if not regression:
        filters = _select("filter-label", "Label", [("", "all")]) + _select(
            "filter-predicted", "Predicted", [("", "all")]
        )
    sorts = [("score", "error" if regression else "confidence"), ("loss", "loss")]
    sorts += (
        [("name", "file name")]
        if regression
        else [("label", "label"), ("predicted", "predicted"), ("name", "file name")]
    )
    what = "image" if regression else "mistake"
    return (
        f'<div id="mistakes-tools" hidden><div class="tools" role="group" aria-label="Filter and sort">{filters}'
        f"{_select('filter-marks', 'Marks', [('', 'all'), ('marked', 'marked'), ('unmarked', 'not marked')])}"
        f"{_select('sort-by', 'Sort by', sorts)}"
        '<label>File name <input type="search" id="filter-name" autocomplete="off"></label>'
        '<button type="button" id="filter-reset">Show all</button></div>'
        '<div class="tools"><p id="mistakes-status" role="status"></p>'
        '<button type="button" id="marks-download" class="main">Download fixes.csv</button>'
        '<button type="button" id="marks-clear">Remove all marks</button></div>'
        "<p class='soft'>Mark images to relabel or to drop, download the list, and apply it with "
        "<code>--fix fixes.csv</code>. The browser remembers the marks. Keys: arrows move, R relabels, D drops, "
        "U removes the mark.</p></div>"
        f'<ul class="gallery" id="mistakes-list" aria-label="{what}s"></ul>'
        '<button type="button" id="mistakes-more" hidden></button>'
        '<dialog id="relabel" aria-labelledby="relabel-title"><h3 id="relabel-title">New label</h3>'
        '<p><small id="relabel-name"></small></p><div id="relabel-field"></div>'
        '<p id="relabel-error" role="alert"></p><div class="tools">'
        '<button type="button" id="relabel-save" class="main">Mark</button>'
        '<button type="button" id="relabel-cancel">Cancel</button></div></dialog>'
        f'<script type="application/json" id="mistakes-data">{gallery.to_json()}</script>'
        f"<noscript>{_plain(gallery)}</noscript>"
    )


def _select(identifier: str, title: str, options: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f'<option value="{value}">{text}</option>' for value, text in options)
    return f'<label>{title} <select id="{identifier}" autocomplete="off">{rows}</select></label>'


def _plain(gallery: Gallery) -> str:
    """Returns a table of the first mistakes without images, for browsers without JavaScript."""
    regression = gallery.kind == "regression"

    def shown(values: Sequence[float]) -> str:
        texts = [f"{value:.4g}" if regression else printable(gallery.names[int(value)]) for value in values]
        return escape(", ".join(texts) or "none")

    rows = "".join(
        f"<tr><td>{escape(printable(key))}</td><td>{shown(true)}</td><td>{shown(found)}</td>"
        f"<td>{f'{score:.3g}' if regression else f'{score:.0%}'}</td></tr>"
        for key, true, found, score, *_ in gallery.rows[:PLAIN_ROWS]
    )
    return (
        "<p>Images, filters and marks need JavaScript.</p>"
        f'<table class="classes"><tr><th>image</th><th>{"true" if regression else "label"}</th><th>predicted</th>'
        f"<th>{'error' if regression else 'confidence'}</th></tr>{rows}</table>"
    )
