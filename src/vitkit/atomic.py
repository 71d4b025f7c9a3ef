"""Atomic file writes: a reader sees the old content or the new one, also after a crash."""

import os
from pathlib import Path


def write_file(path: Path, content: bytes) -> None:
    """Writes a temporary file, flushes it to the disk and renames it to `path`."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    flush_folder(path.parent)


def flush_folder(path: Path) -> None:
    """Flushes the entries of a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
