"""Expands file, folder and glob names to image files. A name that matches no image file is replaced by an error."""

import glob
import os
from collections.abc import Iterable, Iterator

from vitkit.images import ARRAY_SUFFIXES, Unlisted, subfolders, unlisted, walk


def expand(names: Iterable[str]) -> Iterator[str | Unlisted]:
    """Yields the files for the given paths, folders (recursively, sorted by name) and globs, in order.

    Other names are yielded unchanged, so that reading them gives the error. An empty folder, a glob without matches,
    and what is no readable file inside a folder are yielded as `Unlisted`, which a `Predictor` returns as an error.
    """
    for name in names:
        if os.path.isdir(name):
            yield from _folder(name)
        elif glob.has_magic(name) and not os.path.lexists(name):
            yield from _glob(name)
        else:
            yield name


def _folder(name: str) -> Iterator[str | Unlisted]:
    found = listed = False
    for path in walk(name):
        found, listed = True, listed or not isinstance(path, Unlisted)
        yield path
    if not listed:  # the arrays of numpy are the images of a folder without others
        for path in walk(name, ARRAY_SUFFIXES):
            if not isinstance(path, Unlisted):
                found = True
                yield path
    if not found:
        yield unlisted(name, "the folder has no image files")


def _glob(pattern: str) -> Iterator[str | Unlisted]:
    matches = sorted(set(_matches(pattern.replace(os.sep, "/"))))
    if not matches:
        yield unlisted(pattern, "no file matches this pattern")
    for match in matches:
        yield from _folder(match) if os.path.isdir(match) else [match]


def _matches(pattern: str) -> Iterator[str]:
    """Yields the paths that match a glob pattern. `**` matches folders at any depth, and links are followed."""
    head, mark, tail = f"/{pattern}".partition("/**/")
    if mark:
        above = "/" if head == "/" else head[1:]
        for root in glob.glob(above) if glob.has_magic(above) else [above]:
            for folder in subfolders(root or os.curdir):
                # Below the current folder, names have no "./" in front.
                prefix = folder if root else os.path.relpath(folder).removeprefix(os.curdir)
                yield from _matches(os.path.join(glob.escape(prefix), tail))
    elif pattern.endswith("/**") or pattern == "**":
        yield pattern[:-2].rstrip("/") or os.curdir  # a folder is expanded to everything in it
    else:
        yield from glob.glob(pattern)
