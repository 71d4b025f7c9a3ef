"""Tables of text for terminals and pipes: aligned columns that fit the width, without trailing spaces.

Level 0.2. Where a row is too long, text columns are shortened in the middle, and different texts stay different.
"""

import re
import shutil
import textwrap
from collections.abc import Collection, Iterator, Sequence

from rich.cells import cell_len

from vitkit.text import fit_all, printable

# Spaces between columns: as many as fit.
GAPS = ("  ", " ")
NUMBER = re.compile(r"-?|[-+]?[\d.,]+(e[-+]?\d+)?( ?%|x)?")
# Fewest columns of the terminal that a shortened text column keeps.
LEAST = 8


def columns() -> int:
    """Returns the width of the terminal in columns, or 80 where there is none."""
    return max(shutil.get_terminal_size((80, 24)).columns, 40)


def table(
    rows: Sequence[Sequence[str]],
    head: Sequence[str] = (),
    *,
    right: Collection[int] | None = None,
    width: int | None = None,
) -> str:
    """Returns rows as lines of text with aligned columns, escaped with `printable`.

    Args:
        rows: Cells of each row.
        head: Names of the columns.
        right: Indices of the columns that are aligned to the right and never shortened. If None: those of numbers.
        width: Longest line in terminal columns. If None: that of the terminal.
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
    """Returns names with their texts in two columns. Long texts continue below their first line."""
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
    """Returns the widths of the columns, which have `total` characters together. The widest text column shrinks first.

    Columns do not shrink below `LEAST`; a table of many columns may be wider.
    """
    limits = list(widths)
    texts = [index for index in range(len(limits)) if index not in right]
    while sum(limits) > total:
        widest = max(texts, key=lambda index: limits[index], default=None)
        if widest is None or limits[widest] <= LEAST:
            break
        limits[widest] -= 1
    return limits
