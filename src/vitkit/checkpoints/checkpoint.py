"""`Checkpoint`, which `load` returns and `save` takes, and `CheckpointError`."""

from dataclasses import dataclass

from vitkit.data.processor import Processor
from vitkit.models import Backbone
from vitkit.text import printable


class CheckpointError(ValueError):
    """A checkpoint cannot be found, read or written; the message is a single line without control characters."""

    def __init__(self, message: str):
        super().__init__(printable(message))


def listing(names: list[str], limit: int = 8) -> str:
    """Joins the first `limit` names for an error message and counts the others."""
    shown = ", ".join(map(_shown, names[:limit]))
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def _shown(name: str) -> str:
    """Quotes and truncates names from untrusted files that are unprintable or too long."""
    return name if name.isprintable() and len(name) <= 160 else repr(name[:160])


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The source of a checkpoint, its format and Hub commit, and notes on inferred or ignored values."""

    source: str = ""
    format: str = "vitkit"
    revision: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model with its image processor and one label per class (no labels if it has no head)."""

    model: Backbone
    processor: Processor
    labels: tuple[str, ...]
    origin: Origin = Origin()
