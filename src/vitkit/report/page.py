"""Layout and style of the HTML reports. A report is one file without external resources."""

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from vitkit.data import Source
from vitkit.data.fixes import summary
from vitkit.text import plural, printable

STYLE = files("vitkit.report").joinpath("style.css").read_text(encoding="utf-8")


def page(title: str, body: str, script: str = "") -> str:
    """Returns a complete HTML document with the given title and body.

    The content security policy allows only the given script, embedded images and embedded styles, and no network.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"script-src 'sha256-{digest}'" if script else "script-src 'none'"
    policy = (
        f"default-src 'none'; {allowed}; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(printable(title))}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"{f'<script>{script}</script>' if script else ''}\n</body>\n</html>\n"
    )


def shown_name(name: str) -> str:
    """Returns the HTML of a class or file name. Control characters and marks of text direction are escaped."""
    return escape(printable(name))


def corrections(*sources: Source) -> str:
    """Returns a sentence about the applied corrections, or an empty string if there are none."""
    text = summary(*sources)
    return f" {text[:1].upper()}{text[1:]}." if text else ""


def page_links(names: Sequence[str], number: int) -> str:
    """Returns a sentence with links to the prediction files in the folder of the page."""
    links = ", ".join(f'<a href="{escape(name)}">{escape(name)}</a>' for name in names)
    return f"Predictions for all {plural(number, 'image')}: {links}."


def unreadable_section(names: list[str]) -> str:
    """Returns a section that lists the images that could not be read, or an empty string if there are none."""
    if not names:
        return ""
    rows = "".join(f"<li>{escape(printable(name))}</li>" for name in names)
    return (
        f"<h2>Unreadable images: {len(names):,}</h2><p class='soft'>They were left out of the evaluation, or replaced "
        f"by other images in training.</p><details><summary>Names and reasons</summary><ul>{rows}</ul></details>"
    )


def tile(value: str, name: str, *, first: bool = False) -> str:
    """Returns an HTML box that shows a value and its name, for the main metrics of a report."""
    kinds = " first" * first + " long" * (len(value) > 9)
    return f'<div class="tile{kinds}"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
