"""Formats text tables with aligned columns that fit the width of the terminal.

Level 0.2. If a row is too long, the middle of text cells is replaced with "...", so that different texts remain
distinct. Lines have no trailing spaces.
"""

import re
import shutil
import textwrap
from collections.abc import Collection, Iterator, Sequence

from rich.cells import cell_len

from vitkit.text import fit_all, printable

# Separators between columns. The first separator with which the table fits the width is used.
GAPS = ("  ", " ")
NUMBER = re.compile(r"-?|[-+]?[\d.,]+(e[-+]?\d+)?( ?%|x)?")
# Smallest width of a shortened text column, in terminal columns.
LEAST = 8


def columns() -> int:
    """Returns the width of the terminal in columns (at least 40), or 80 if there is no terminal."""
    return max(shutil.get_terminal_size((80, 24)).columns, 40)


def table(
    rows: Sequence[Sequence[str]],
    head: Sequence[str] = (),
    *,
    right: Collection[int] | None = None,
    width: int | None = None,
) -> str:
    """Formats rows as text with aligned columns. Cells are escaped with `printable`.

    Args:
        rows: Cells of each row.
        head: Names of the columns.
        right: Indices of columns that are right-aligned and never shortened. If None, columns of numbers.
        width: Largest line width in terminal columns. If None, the width of the terminal.
    """
    cells = [[printable(cell) for cell in row] for row in ([head, *rows] if head else rows)]
    if not cells:
        return ""
    body = cells[1:] if head else cells
    numbers = {index for index, column in enumerate(zip(*body, strict=True)) if all(map(NUMBER.fullmatch, column))}
    right = numbers if right is None else right
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    total = columns() if width is None else width
    gap = next((each for each in GAPS if sum(widths) + len(each) * (len(widths) - 1) <= total), GAPS[-1])
    limits = _limited(widths, right, total - len(gap) * (len(widths) - 1))
    for index, limit in enumerate(limits):
        if limit < widths[index]:
            for row, short in zip(cells, fit_all([row[index] for row in cells], limit), strict=True):
                row[index] = short
    return "\n".join(gap.join(_padded(row, limits, right)).rstrip() for row in cells)


def _padded(row: Sequence[str], widths: Sequence[int], right: Collection[int]) -> Iterator[str]:
    for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
        space = " " * (width - cell_len(cell))
        yield f"{space}{cell}" if index in right else f"{cell}{space}"


def listing(rows: Sequence[tuple[str, str]], *, width: int | None = None) -> str:
    """Formats names and their descriptions in two columns. Long descriptions are wrapped."""
    size = max((cell_len(printable(name)) for name, _ in rows), default=0) + len(GAPS[0])
    total, lines = columns() if width is None else width, []
    for name, text in rows:
        parts = [
            line
            for each in text.split("\n")
            for line in textwrap.wrap(printable(each), max(total - size, 20), break_on_hyphens=False) or [""]
        ]
        first, *rest = parts
        lines.append(f"{printable(name).ljust(size)}{first}".rstrip())
        lines += [f"{' ' * size}{line}" for line in rest]
    return "\n".join(lines)


def _limited(widths: Sequence[int], right: Collection[int], total: int) -> list[int]:
    """Shrinks column widths until their sum is at most `total`. The widest text column shrinks first.

    No column shrinks below `LEAST`, so a table with many columns may be wider than `total`.
    """
    limits = list(widths)
    texts = [index for index in range(len(limits)) if index not in right]
    while sum(limits) > total:
        widest = max(texts, key=lambda index: limits[index], default=None)
        if widest is None or limits[widest] <= LEAST:
            break
        limits[widest] -= 1
    return limits
