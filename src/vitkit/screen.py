"""Shows results in a notebook, in a window, or as text."""

import os
import shutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def show(result: object, image: "Callable[[], Image.Image]", text: Callable[[], str]) -> None:
    """Shows a result: as a notebook displays it, as an image in a window, or as text on standard output."""
    if _in_notebook():
        from IPython.display import display  # type: ignore[import-not-found]

        display(result)
    elif _has_window():
        image().show()
    else:
        print(text())


def _in_notebook() -> bool:
    """Returns whether the process is the kernel of a notebook."""
    get = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    return getattr(get(), "kernel", None) is not None


def _has_window() -> bool:
    """Returns whether images can be shown in a window: not in a terminal without a graphical display."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def terminal_width() -> int | None:
    """Returns the number of columns if standard output is a terminal, else None: a pipe gets complete lines."""
    try:
        return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    except (ValueError, AttributeError):  # closed
        return None
