"""Defines `Checkpoint`, which `load` returns and `save` accepts, and the exception `CheckpointError`."""

from dataclasses import dataclass

from vitkit.data.processor import Processor
from vitkit.models import Backbone
from vitkit.text import printable


class CheckpointError(ValueError):
    """Raised if a checkpoint cannot be found, read or written. The message is one line without control characters."""

    def __init__(self, message: str):
        super().__init__(printable(message))


def listing(names: list[str], limit: int = 8) -> str:
    """Returns the first `limit` names, joined for an error message, and the number of the remaining names."""
    shown = ", ".join(map(_shown, names[:limit]))
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def _shown(name: str) -> str:
    """Returns a name from an untrusted file. A name that is unprintable or too long is quoted and truncated."""
    return name if name.isprintable() and len(name) <= 160 else repr(name[:160])


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The source of a checkpoint, its file format, its Hub commit, and notes on inferred or ignored values."""

    source: str = ""
    format: str = "vitkit"
    revision: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, repr=False)
class Checkpoint:
    """A model with its image processor and one label per class. A model without a head has no labels."""

    model: Backbone
    processor: Processor
    labels: tuple[str, ...]
    origin: Origin = Origin()

    def describe(self) -> str:
        """Returns one line with the family and size of the model, its input, its classes, and its origin."""
        size = " x ".join(map(str, self.model.config.image_size))
        parts = [f"images of {size}", f"{len(self.labels):,} class{'' if len(self.labels) == 1 else 'es'}"]
        if not self.model.is_exported:
            number = sum(parameter.numel() for parameter in self.model.parameters())
            parts.insert(0, f"{self.model.family}, {number:,} parameters")
        if self.origin.source:
            parts.append(f"{self.origin.format}: {printable(self.origin.source)}")
        return ", ".join(parts)

    def __repr__(self) -> str:
        return f"Checkpoint({self.describe()})"
