"""Reproduces the tables and figures of the ViT paper, "An Image is Worth 16x16 Words".

Each file with an `EXPERIMENT` is one experiment: a table, a figure or an unnumbered study, named like the file. It
contains a description, the published numbers, the commands at full scale, and `study(small) -> Findings`, which
reproduces the experiment at small scale on any dataset. To add an experiment, add a file. The other files are helpers:
`small` trains and evaluates, `spread` tests differences between variants, `commands` formats command lines, and `write`
saves the results.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vitkit.config import nearest
from vitkit.explanation import Drawing
from vitkit.registry import Registry

if TYPE_CHECKING:
    from vitkit.paper.small_scale import SmallScale

Cell = str | float | int | None

_MODULES = Registry(__name__, "experiment", ("EXPERIMENT", "study"), exclude=("small_scale", "write"))


@dataclass(frozen=True)
class Table:
    """Table of numbers and text with named columns. None stands for an unknown value."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        """Raises ValueError if a row does not have one cell per column."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"the row {row} has {len(row)} cells; expected {len(self.columns)}: {self.columns}")

    def words(self) -> list[list[str]]:
        """Returns all cells as text, row by row."""
        return [[format_cell(cell) for cell in row] for row in self.rows]

    def to_dict(self) -> dict[str, object]:
        """Converts the table to a dict for JSON."""
        return {"columns": list(self.columns), "rows": [list(row) for row in self.rows]}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table, figure or study of the ViT paper, with its published numbers and the commands to reproduce it.

    `full` are the commands at the paper's scale, and `needs` the data and models that they require; it is empty if the
    experiment is computed without either. `small` describes the study at small scale. `minutes` is its approximate time
    on one CPU core, at 20 ms per training step with batch size 32 on the digits.
    """

    title: str
    section: str
    shows: str
    published: Table
    full: tuple[str, ...]
    needs: str
    small: str
    minutes: float


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Results of a small-scale study: a table with the published numbers, plots, remarks and raw numbers."""

    table: Table
    drawings: Mapping[str, Drawing] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    numbers: Mapping[str, object] = field(default_factory=dict)


def experiments() -> dict[str, Experiment]:
    """Returns all experiments by name: first figures, then tables, then unnumbered experiments."""
    known = {name: module.EXPERIMENT for name, module in _MODULES}
    return dict(sorted(known.items(), key=lambda pair: _order(pair[0])))


def experiment(name: str) -> Experiment:
    """Returns the experiment with the given name. Raises ValueError if the name is unknown."""
    known = experiments()
    if name not in known:
        raise ValueError(f"the paper has no experiment '{name}'{nearest(name, known)}")
    return known[name]


def study(name: str, small: "SmallScale") -> Findings:
    """Runs the small-scale study of an experiment. Raises ValueError if the name is unknown."""
    experiment(name)
    return _MODULES.get(name).study(small)


def full(name: str, small: "SmallScale") -> Findings:
    """Runs an experiment at the scale of the paper, if it needs no training. Otherwise raises ValueError.

    Counts and comparisons are the same at both scales; figures of a model need `small.model`. Raises ValueError with
    the requirements of all other experiments.
    """
    chosen = experiment(name)
    if chosen.needs and not (small.model and uses_model(name)):
        raise ValueError(
            f"{chosen.title} at full scale needs {chosen.needs}; `vitkit paper {name}` lists its {len(chosen.full)} "
            "commands"
        )
    return study(name, small)


def uses_model(name: str) -> bool:
    """Returns whether an experiment explains a trained model, so that it accepts a checkpoint to explain."""
    experiment(name)
    return bool(getattr(_MODULES.get(name), "USES_MODEL", False))


def format_cell(cell: Cell) -> str:
    """Formats the value of a table cell as text."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.5g}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def _order(name: str) -> tuple[int, str, int]:
    numbered = re.fullmatch(r"(figure|table)(\d+)", name)
    return (0, numbered[1], int(numbered[2])) if numbered else (1, name, 0)
