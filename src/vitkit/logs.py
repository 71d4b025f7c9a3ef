"""The logger `vitkit`. Its messages are not shown in Python, and printed to standard error by commands.

vitkit logs notes, such as which settings a checkpoint does not contain, and warnings about single images. In Python,
call `logging.basicConfig(level=logging.INFO)` or add a handler to show these messages.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from vitkit.text import printable

LOGGER: Final = logging.getLogger("vitkit")
# Without a handler, logging prints warnings to standard error.
LOGGER.addHandler(logging.NullHandler())


class CommandHandler(logging.Handler):
    """Handler that prints each message as one line on standard error, such as "vitkit: 2 images could not be read".

    Messages with the attribute `shown` are skipped, because the progress of a training run is already on the console.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a message. Does nothing if standard error is closed."""
        if sys.stderr is not None and not getattr(record, "shown", False):
            print(f"vitkit: {printable(record.getMessage())}", file=sys.stderr)


@contextmanager
def shown(level: int = logging.INFO) -> Iterator[None]:
    """Context manager that prints messages of at least `level` to standard error, as commands do."""
    handler, before, propagate = CommandHandler(level), LOGGER.level, LOGGER.propagate
    LOGGER.addHandler(handler)
    LOGGER.setLevel(level)
    LOGGER.propagate = False  # the root logger might print them again
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before)
        LOGGER.propagate = propagate
