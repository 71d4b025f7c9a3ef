"""Shows results in a notebook, in a window, or as text."""

import os
import shutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def show(result: object, image: "Callable[[], Image.Image]", text: Callable[[], str]) -> None:
    """Shows a result in a notebook, as an image in a window, or as text on standard output."""
    if _in_notebook():
        from IPython.display import display  # type: ignore[import-not-found]

        display(result)
    elif _has_window():
        image().show()
    else:
        print(text())


def _in_notebook() -> bool:
    """Returns whether the code runs in a notebook kernel."""
    get = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    return getattr(get(), "kernel", None) is not None


def _has_window() -> bool:
    """Returns whether there is a graphical display that can show images in a window."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def terminal_width() -> int | None:
    """Returns the width of the terminal in columns, or None if standard output is not a terminal."""
    try:
        return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    except (ValueError, AttributeError):  # standard output is closed or replaced
        return None
