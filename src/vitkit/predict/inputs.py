"""What people type to mean images: files, folders, globs, and lists on standard input."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from vitkit.images import SUFFIXES


def expand(names: Iterable[str]) -> Iterator[str]:
    """The files meant by `names`, in order: a folder is searched recursively by name, a glob is matched.

    A name that is none of these comes back as it is, so that reading it says what is wrong. Raises ValueError for a
    folder or a glob that holds no image.
    """
    for name in names:
        if os.path.isdir(name):
            yield from _folder(name)
        elif glob.has_magic(name) and not os.path.exists(name):
            yield from _glob(name)
        else:
            yield name


def _folder(name: str) -> Iterator[str]:
    found = False
    for path in sorted(Path(name).rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(name).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            found = True
            yield str(path)
    if not found:
        raise ValueError(f"the folder '{name}' holds no image files")


def _glob(pattern: str) -> Iterator[str]:
    matches = sorted(glob.glob(pattern, recursive=True))
    if not matches:
        raise ValueError(f"no file matches '{pattern}'")
    for match in matches:
        if os.path.isdir(match):
            yield from _folder(match)
        else:
            yield match
