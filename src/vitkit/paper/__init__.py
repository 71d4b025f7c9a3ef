"""The ViT paper, table by table and figure by figure: "An Image is Worth 16x16 Words" (Dosovitskiy et al. 2021).

A file with an `EXHIBIT` is one table, figure or unnumbered study, called by its file name: what it shows, what was
published, the commands that make it at full scale, and `study(small) -> Findings`, which makes it at a scale that fits
the machine at hand, on data at hand. The other files are what studies are made with: `small` trains and judges,
`spread` says what seeds explain, `commands` writes command lines, `write` the results. A further exhibit is one file.
"""

import importlib
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vitkit.config import nearest
from vitkit.explain import Drawing

if TYPE_CHECKING:
    from vitkit.paper.small import Small

Cell = str | float | int | None


@dataclass(frozen=True)
class Table:
    """Rows of numbers and words under named columns; None is what was not published or not measured."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        """Refuses rows of another length."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"the row {row} does not fit the {len(self.columns)} columns {self.columns}")

    def words(self) -> list[list[str]]:
        """All cells as people read them, row by row."""
        return [[shown(cell) for cell in row] for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"columns": list(self.columns), "rows": [list(row) for row in self.rows]}


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """What the paper shows in one place, and how it is made again.

    `full` are the commands at the paper's scale and `needs` what they read that is not inside the package, empty for
    what is computed. `small` says what the study does in its stead, and `minutes` about what that takes of one CPU
    core, at 20 thousandths of a second for a step of 32 digits.
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
    """What a study found: its table with the published numbers beside, drawings by name, sentences, raw numbers."""

    table: Table
    drawings: Mapping[str, Drawing] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)


def exhibits() -> dict[str, Exhibit]:
    """Every exhibit by its name: figures, then tables, then what has no number."""
    found = {module.name: _module(module.name) for module in pkgutil.iter_modules(__path__)}
    known = {name: module.EXHIBIT for name, module in found.items() if hasattr(module, "EXHIBIT")}
    return dict(sorted(known.items(), key=lambda pair: _order(pair[0])))


def exhibit(name: str) -> Exhibit:
    """The exhibit of that name; ValueError that lists the near ones for an unknown one."""
    known = exhibits()
    if name not in known:
        raise ValueError(f"the paper has no '{name}'{nearest(name, known)}")
    return known[name]


def study(name: str, small: "Small") -> Findings:
    """The findings of an exhibit's study at small scale; ValueError for an unknown name."""
    exhibit(name)
    return _module(name).study(small)


def full(name: str, small: "Small") -> Findings:
    """The findings of an exhibit at the paper's own scale, where no training stands in between.

    What is computed is the same at both scales; what is seen in a model needs that model. Raises ValueError that says
    what is needed, and where the commands are.
    """
    found = exhibit(name)
    if found.needs and not (small.model and looks_at_a_model(name)):
        raise ValueError(
            f"{found.title} at full scale needs {found.needs}; its {len(found.full)} commands, to run one by one, are "
            f"listed by `vitkit paper {name}`"
        )
    return study(name, small)


def looks_at_a_model(name: str) -> bool:
    """Whether the exhibit is drawn of a model, which may then be any checkpoint."""
    exhibit(name)
    return bool(getattr(_module(name), "OF_A_MODEL", False))


def shown(cell: Cell) -> str:
    """A cell as people read it."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.5g}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")


def _order(name: str) -> tuple[int, str, int]:
    numbered = re.fullmatch(r"(figure|table)(\d+)", name)
    return (0, numbered[1], int(numbered[2])) if numbered else (1, name, 0)
