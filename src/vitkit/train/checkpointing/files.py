"""Where a run stands, on disk: written so that a kill at any moment leaves the newest whole state to go on from.

A state is a folder `step-00000120` with a MANIFEST.json (size and SHA-256 of every file, and a seal over itself). It is
written under a temporary name, flushed to the disk, and renamed; a folder that its manifest does not fit is passed over
for the one before. A whole state is one file, `state.pt`: tensors and plain values only, read with `weights_only=True`.
A sharded one has a file of each process (`train.shards`).
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitkit import atomic, distributed

# Given the path, the shape and the dtype of a saved tensor: the empty one that its values go into.
Like = Callable[[str, tuple[int, ...], torch.dtype], Tensor]

_NAME = re.compile(r"step-(\d+)")
_MANIFEST = "MANIFEST.json"
_WHOLE = "state.pt"


def save(folder: Path, step: int, state: dict[str, Any], *, keep: int) -> Path:
    """Writes the whole state of a step into the folder of states, then removes all but the `keep` newest.

    Raises ValueError for `keep` below 2: with one, a state that turns out damaged would be the last. OSError passes
    through (a full disk), the older states are still there.
    """
    temporary = opened(folder, step, keep=keep)
    with (temporary / _WHOLE).open("wb") as file:
        torch.save(state, file)
    files = {_WHOLE: flushed(temporary / _WHOLE)}
    return published(temporary, {"step": step, "files": files}, keep=keep)


def opened(folder: Path, step: int, *, keep: int) -> Path:
    """An empty temporary folder for the files of a step's state; what a kill left of an earlier one goes."""
    if keep < 2:
        raise ValueError(f"keep is {keep}; it must be at least 2, so that a damaged state is not the last")
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"step-*{atomic.PART}"):
        shutil.rmtree(left)
    temporary = folder / (_named(step) + atomic.PART)
    temporary.mkdir()
    return temporary


def published(temporary: Path, manifest: dict[str, Any], *, keep: int) -> Path:
    """Gives a state whose files are on the disk its manifest and its name, and removes all but the `keep` newest."""
    text = json.dumps(manifest | {"seal": _seal(manifest)})
    atomic.write_text(temporary / _MANIFEST, text)
    target = temporary.with_name(temporary.name.removesuffix(atomic.PART))
    atomic.publish(temporary, target)  # in place of one of the same step, saved before a resume
    for old in states(target.parent)[:-keep]:
        atomic.remove_folder(old)
    return target


def load_full(path: Path) -> dict[str, Any] | None:
    """Loads a full checkpoint; None for a sharded one."""
    if not (path / _WHOLE).exists():
        return None
    state: dict[str, Any] = torch.load(path / _WHOLE, weights_only=True, map_location="cpu")
    return state


def newest(folder: Path) -> Path | None:
    """The newest state that is whole: the same in all processes, each of which reads its part of the files."""
    before = float("inf")
    while True:
        steps = (
            [_step(path) for path in states(folder) if _step(path) < before] if distributed.is_main_process() else []
        )
        before = distributed.broadcast(float(max(steps, default=-1)))
        if before < 0:
            return None
        path = folder / _named(int(before))
        if not distributed.any_true(not is_whole(path, distributed.rank(), distributed.world_size())):
            return path


def states(folder: Path) -> list[Path]:
    """The folders of states, oldest first, whole or not; temporary ones do not count."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_step)


def is_whole(path: Path, rank: int = 0, world_size: int = 1) -> bool:
    """Whether the files of a state, or those that are this process's to read, are what its manifest was written for."""
    try:
        files = manifest(path)["files"]
        return all(files[name] == _digest(path / name) for name in sorted(files)[rank::world_size])
    except (OSError, ValueError):
        return False


def manifest(path: Path) -> dict[str, Any]:
    """The manifest of a state; ValueError for one that was damaged or is of another step, OSError where it is none."""
    try:
        held = json.loads((path / _MANIFEST).read_bytes())
    except RecursionError:
        raise ValueError(f"{path / _MANIFEST} is nested too deep") from None
    if not isinstance(held, dict) or held.get("step") != _step(path):
        raise ValueError(f"{path / _MANIFEST} is not that of '{path.name}'")
    if "files" not in held:  # as vitkit 0.1 wrote it, for a whole state
        return {"step": held["step"], "files": {_WHOLE: {"size": held.get("size"), "sha256": held.get("sha256")}}}
    seal = held.pop("seal", None)
    if seal != _seal(held) or not isinstance(held["files"], dict):
        raise ValueError(f"{path / _MANIFEST} is damaged")
    if any(Path(name).name != name for name in held["files"]):
        raise ValueError(f"{path / _MANIFEST} names files of another folder")
    return held


def flushed(path: Path) -> dict[str, Any]:
    """What a manifest says of a file, once that is on the disk."""
    atomic.flush(path)
    return _digest(path)


def _named(step: int) -> str:
    return f"step-{step:08d}"


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _seal(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}
