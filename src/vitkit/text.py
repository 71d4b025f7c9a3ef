"""Escapes text from untrusted files for terminals, tables, reports and messages.

A file name, a label or a key of a config can hold any character: an escape sequence that a terminal would execute, a
line break that forges a row, or a byte that is not UTF-8 (`os.fsdecode` returns it as a lone surrogate).
"""

import json
from typing import Any


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


def plural(number: int, noun: str) -> str:
    """Returns a count with its noun, such as "1 image" or "2 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _json_escape(character: str) -> str:
    number = ord(character)
    if number < 0x10000:
        return f"\\u{number:04x}"
    number -= 0x10000  # JSON writes it as a pair of surrogates
    return f"\\u{0xD800 + (number >> 10):04x}\\u{0xDC00 + (number & 0x3FF):04x}"
