"""Where a run stands, on disk: written so that a kill at any moment leaves the newest whole state to go on from.

A state is a folder `step-00000120` with `state.pt` and `MANIFEST.json` (size and SHA-256). It is written under a
temporary name, flushed to the disk, and renamed; a folder whose manifest does not fit is passed over for the one
before. `state.pt` holds tensors and plain values only and is read with `weights_only=True`.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch

_NAME = re.compile(r"step-(\d+)")
_TEMPORARY = ".tmp"


def save(folder: Path, step: int, state: dict[str, Any], *, keep: int) -> Path:
    """Writes the state of a step into the folder of states, then removes all but the `keep` newest.

    Raises ValueError for `keep` below 2: with one, a state that turns out damaged would be the last. OSError passes
    through (a full disk), the older states are still there.
    """
    if keep < 2:
        raise ValueError(f"keep is {keep}; it must be at least 2, so that a damaged state is not the last")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{step:08d}"
    temporary = folder / (target.name + _TEMPORARY)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    torch.save(state, temporary / "state.pt")
    _flush(temporary / "state.pt")
    write_file(temporary / "MANIFEST.json", json.dumps(_manifest(temporary / "state.pt", step)).encode())
    if target.exists():  # the same step, saved before a resume
        shutil.rmtree(target)
    temporary.rename(target)
    _flush(folder)
    for old in states(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest state that is whole, None where there is none."""
    for path in reversed(states(folder)):
        if is_whole(path):
            state: dict[str, Any] = torch.load(path / "state.pt", weights_only=True, map_location="cpu")
            return state
    return None


def states(folder: Path) -> list[Path]:
    """The folders of states, oldest first, whole or not; temporary ones do not count."""
    if not folder.is_dir():
        return []
    found = {path: match for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))}
    return sorted(found, key=lambda path: int(found[path][1]))


def is_whole(path: Path) -> bool:
    """Whether the files of a state are those its manifest was written for."""
    try:
        manifest = json.loads((path / "MANIFEST.json").read_bytes())
        return manifest == _manifest(path / "state.pt", int(path.name.removeprefix("step-")))
    except (OSError, ValueError):
        return False


def write_file(path: Path, content: bytes) -> None:
    """Writes a file so that its name never stands for half of it: temporary, flushed, renamed."""
    temporary = path.with_name(path.name + _TEMPORARY)
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _flush(path.parent)


def _manifest(path: Path, step: int) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"step": step, "size": path.stat().st_size, "sha256": digest}


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
