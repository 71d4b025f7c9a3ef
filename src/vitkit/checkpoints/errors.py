"""The one error of this folder."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be found, read, understood or written, said in one line."""


def listing(names: list[str], limit: int = 8) -> str:
    """Some names for an error line: all of them, or the first ones and how many more."""
    shown = ", ".join(map(_shown, names[:limit]))
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def _shown(name: str) -> str:
    """A name as it is, or quoted and cut where a stranger made it to hurt a terminal."""
    return name if name.isprintable() and len(name) <= 160 else repr(name[:160])
