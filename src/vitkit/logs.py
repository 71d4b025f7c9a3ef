"""The logger of vitkit: quiet in Python, and shown on standard error by the command line.

Notes (such as settings that a checkpoint did not state) and warnings about single images are messages of the logger
`vitkit`. In Python, `logging.basicConfig(level=logging.INFO)` or a handler of the logger shows them.
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

    Messages with the attribute `shown` are on the console already: the progress of a training run.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a message. A closed standard error is ignored."""
        if sys.stderr is not None and not getattr(record, "shown", False):
            print(f"vitkit: {printable(record.getMessage())}", file=sys.stderr)


@contextmanager
def shown(level: int = logging.INFO) -> Iterator[None]:
    """Context manager that shows the messages of the logger from `level` on, as the command line does."""
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
