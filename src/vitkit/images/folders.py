"""Lists the image files in folders. Links are followed; anything unreadable is reported."""

import os
import stat
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import PurePath

from vitkit.images.errors import ImageError
from vitkit.images.files import SUFFIXES, reason_of
from vitkit.regular import kind_of

_Identity = tuple[int, int]  # of a folder, whatever its path: device and inode


@dataclass(frozen=True)
class Unlisted:
    """A path that cannot be read as an image file, and the error. It takes the place of an image in a list."""

    name: str
    error: ImageError

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class _Level:
    """A folder that is being listed: its remaining entries, identity, and the folders already listed below a link."""

    entries: Iterator[str]
    identity: _Identity
    seen: set[_Identity] | None


def walk(folder: str, suffixes: Container[str] = SUFFIXES) -> Iterator[str | Unlisted]:
    """Yields the image files in a folder and its subfolders, sorted by name. The paths start with `folder`.

    A file is an image by its suffix. Links to files and folders are followed; a folder that contains itself through a
    link is listed once. Broken links, named pipes, sockets, devices and folders that cannot be listed are yielded as
    `Unlisted`, whatever their names. Names that start with a dot are skipped.
    """
    for entry in _entries(folder):
        if isinstance(entry, Unlisted):
            yield entry
            continue
        path, status = entry
        if stat.S_ISREG(status.st_mode):
            if PurePath(path).suffix.lower() in suffixes:
                yield path
        elif not stat.S_ISDIR(status.st_mode):
            yield unlisted(path, f"the path is {kind_of(status)}, not a file")


def subfolders(folder: str) -> Iterator[str]:
    """Yields a folder and all folders below it, in the order of `walk`. Links are followed as in `walk`."""
    for entry in _entries(folder):
        if not isinstance(entry, Unlisted) and stat.S_ISDIR(entry[1].st_mode):
            yield entry[0]


def unlisted(name: str, reason: str) -> Unlisted:
    """Returns an `Unlisted` for a path that cannot be read as an image file. `reason` is the error message."""
    return Unlisted(name, ImageError("unreadable", reason))


def _entries(folder: str) -> Iterator[tuple[str, os.stat_result] | Unlisted]:
    """Yields (path, status) of a folder and of each entry below it, or `Unlisted` for entries that cannot be read."""
    levels: list[_Level] = []
    path: str | None = folder
    while path is not None or levels:
        if path is None:
            levels.pop()
        else:
            entry = _look(path, levels)
            if entry is not None:
                yield entry
        path = next(levels[-1].entries, None) if levels else None


def _look(path: str, levels: list[_Level]) -> tuple[str, os.stat_result] | Unlisted | None:
    """Returns a path with its status, or None for a folder that was listed before. Adds new folders to `levels`."""
    try:
        status = os.stat(path)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and os.path.islink(path):
            return unlisted(path, "the path is a link to a file that does not exist")
        return unlisted(path, f"the file cannot be opened: {reason_of(error)}")
    if not stat.S_ISDIR(status.st_mode):
        return path, status
    identity, seen = (status.st_dev, status.st_ino), levels[-1].seen if levels else None
    if any(level.identity == identity for level in levels) or (seen is not None and identity in seen):
        return None
    # Below a link each folder is listed once, so that links to folders of links do not multiply.
    seen = set() if seen is None and levels and os.path.islink(path) else seen
    if seen is not None:
        seen.add(identity)
    try:
        names = sorted(name for name in os.listdir(path) if not name.startswith("."))
    except OSError as error:
        return unlisted(path, f"the folder cannot be listed: {reason_of(error)}")
    levels.append(_Level(iter([os.path.join(path, name) for name in names]), identity, seen))
    return path, status
