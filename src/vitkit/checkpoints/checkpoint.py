"""`Checkpoint`, what `load` returns and `save` takes, and `CheckpointError`, the one error of this folder."""

from dataclasses import dataclass

from vitkit.data.processor import Processor
from vitkit.models import Backbone


class CheckpointError(ValueError):
    """A checkpoint that cannot be found, read, understood or written, said in one line."""


def listing(names: list[str], limit: int = 8) -> str:
    """Some names for an error line: all of them, or the first ones and how many more."""
    shown = ", ".join(map(_shown, names[:limit]))
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def _shown(name: str) -> str:
    """A name as it is, or quoted and cut where a stranger made it to hurt a terminal."""
    return name if name.isprintable() and len(name) <= 160 else repr(name[:160])


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a checkpoint came from: what was typed, format, commit on the Hub, what was inferred or left out."""

    source: str = ""
    format: str = "vitkit"
    revision: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model with what makes it usable: preprocessing, and a name for every class (none where it has no head)."""

    model: Backbone
    processor: Processor
    labels: tuple[str, ...]
    origin: Origin = Origin()
