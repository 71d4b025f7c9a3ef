"""Escapes text from untrusted files for terminals, tables, reports and messages.

A file name, a label or a key of a config can hold any character: an escape sequence that a terminal would execute, a
line break that forges a row, or a byte that is not UTF-8 (`os.fsdecode` returns it as a lone surrogate).
"""

import json
from collections.abc import Sequence
from typing import Any

# A spreadsheet interprets a cell that starts with one of these characters as a formula. Some are full-width characters.
# An apostrophe is escaped with a second apostrophe, so that `from_spreadsheet_cell` can restore every text.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20", "'")


def printable(text: object) -> str:
    """Returns untrusted text with control characters, line breaks and all other unprintable characters escaped."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def json_text(value: Any, *, ascii_only: bool = False) -> str:
    """Returns a value as one line of JSON without unprintable characters. Parsing the line returns the same value."""
    text = json.dumps(value, ensure_ascii=ascii_only)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _json_escape(each) for each in text)


def shortened(names: list[str], most: int = 3) -> str:
    """Joins escaped names for a message. Names after the first `most` are only counted, as in "and 5 more"."""
    shown = ", ".join(map(printable, names[:most]))
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown


def spreadsheet_cell(text: str) -> str:
    """Escapes text for a CSV cell.

    An apostrophe is prepended if a spreadsheet would interpret it as a formula.
    """
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def from_spreadsheet_cell(text: str) -> str:
    """Returns the original text of a cell that was escaped with `spreadsheet_cell`."""
    return text[1:] if text.startswith("'") and text[1:].startswith(FORMULA_STARTS) else text


def utf8_text(text: str) -> str:
    """Returns text that UTF-8 can encode: undecodable bytes of a file name are escaped, such as `\\udce9`."""
    return text.encode("utf-8", "backslashreplace").decode()


def plural(number: int, noun: str) -> str:
    """Returns a count with its noun, such as "1 image" or "2 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent(fraction: float) -> str:
    """Returns a score, an accuracy or another fraction as a percentage with two decimals, such as "80.00%"."""
    return f"{fraction:.2%}"


def fit(text: str, width: int) -> str:
    """Shortens text to at most `width` terminal columns by replacing its middle with "..."."""
    from rich.cells import cell_len, set_cell_size

    if len(text) <= width and cell_len(text) <= width:
        return text
    if width < 5:
        return set_cell_size(text, max(width, 0)).rstrip()
    tail = (width - 3) // 2
    end = text[max(0, len(text) - tail) :]
    while cell_len(end) > tail:
        end = end[1:]
    return f"{set_cell_size(text, width - 3 - cell_len(end))}...{end}"


def fit_all(texts: Sequence[str], width: int) -> list[str]:
    """Shortens texts to at most `width` terminal columns, so that different texts remain distinct.

    The middle of a long text is replaced with "...". If different texts become equal, they are instead cut shortly
    before their first difference. Texts that are still equal are numbered, as in "a...z~2".
    """
    short = {text: fit(text, width) for text in texts}
    for same in _equal_groups(short):
        differs = (index for index, each in enumerate(zip(*same, strict=False)) if len(set(each)) > 1)
        start = max(0, next(differs, min(map(len, same))) - 2)
        short |= {text: fit(f"...{text[start:]}", width) for text in same}
    for same in _equal_groups(short):
        numbers = [f"~{number}" for number in range(1, len(same) + 1)]
        short |= {
            text: fit(short[text], width - len(number)) + number for text, number in zip(same, numbers, strict=True)
        }
    return [short[text] for text in texts]


def _equal_groups(short: dict[str, str]) -> list[list[str]]:
    """Returns groups of different texts whose shortened forms are equal."""
    groups: dict[str, list[str]] = {}
    for text, form in short.items():
        groups.setdefault(form, []).append(text)
    return [group for group in groups.values() if len(group) > 1]


def _json_escape(character: str) -> str:
    number = ord(character)
    if number < 0x10000:
        return f"\\u{number:04x}"
    number -= 0x10000  # JSON writes it as a pair of surrogates
    return f"\\u{0xD800 + (number >> 10):04x}\\u{0xDC00 + (number & 0x3FF):04x}"
