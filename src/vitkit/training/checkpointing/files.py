"""Saves and verifies training checkpoints. A process that is killed while saving damages no checkpoint.

A checkpoint is a folder `step-00000120` with a MANIFEST.json: size and SHA-256 of every file, and a hash of the
manifest itself. It is written under a temporary name, flushed to the disk, and renamed. Loading skips a folder that
does not match its manifest and takes the one before. A full checkpoint is one file, `state.pt`, of tensors and plain
values, which is read with `weights_only=True`. A sharded one has one file per process (`checkpointing.sharded`).
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
from vitkit.config import JsonDict
from vitkit.regular import open_regular, read_bytes

# Returns an empty tensor to load into, for the path, shape and dtype of a saved tensor.
Allocate = Callable[[str, tuple[int, ...], torch.dtype], Tensor]

# A part of a training checkpoint: a tensor, a plain value, or a dict, list or tuple of such parts.
Nested = Any
# The content of a training checkpoint.
State = dict[str, Nested]

_NAME = re.compile(r"step-(\d+)")
_MANIFEST = "MANIFEST.json"
_FULL = "state.pt"


def save(folder: Path, step: int, state: State, *, keep: int) -> Path:
    """Saves a full checkpoint as one file, then removes all but the `keep` newest checkpoints.

    Raises ValueError for `keep` below 2: if the only checkpoint is damaged, nothing is left. Raises OSError, for
    example for a full disk; the older checkpoints then remain.
    """
    temporary = create_temporary(folder, step, keep=keep)
    with atomic.open_deferred(temporary / _FULL) as file:
        torch.save(state, file)
    files = {_FULL: flush(temporary / _FULL)}
    return publish(temporary, {"step": step, "files": files}, keep=keep)


def create_temporary(folder: Path, step: int, *, keep: int) -> Path:
    """Creates a temporary folder for a checkpoint, and removes temporary folders left by killed processes."""
    if keep < 2:
        raise ValueError(f"keep is {keep}; it must be at least 2, because the newest checkpoint may be damaged")
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"step-*{atomic.PART}"):
        shutil.rmtree(left)
    temporary = folder / (_folder_name(step) + atomic.PART)
    temporary.mkdir()
    return temporary


def flush(path: Path) -> JsonDict:
    """Flushes a file to disk, and returns its size and SHA-256 hash for the manifest."""
    atomic.flush(path)
    return _digest(path)


def publish(temporary: Path, manifest: JsonDict, *, keep: int) -> Path:
    """Writes the manifest, renames the temporary folder, and removes all but the `keep` newest checkpoints."""
    text = json.dumps(manifest | {"seal": _seal(manifest)})
    atomic.write_text(temporary / _MANIFEST, text)
    target = temporary.with_name(temporary.name.removesuffix(atomic.PART))
    atomic.publish(temporary, target)  # replaces one of the same step, saved before a resume
    for old in list_checkpoints(target.parent)[:-keep]:
        atomic.remove_folder(old)
    return target


def load_full(path: Path) -> State | None:
    """Loads a full checkpoint on the CPU. Returns None if the checkpoint is sharded."""
    if not (path / _FULL).exists():
        return None
    state: State = torch.load(path / _FULL, weights_only=True, map_location="cpu")
    return state


def newest_complete(folder: Path) -> Path | None:
    """Returns the newest complete checkpoint, or None. Each process verifies a part of the files."""
    before = float("inf")
    while True:
        steps = [_step(path) for path in list_checkpoints(folder)] if distributed.is_main_process() else []
        before = distributed.broadcast(float(max((step for step in steps if step < before), default=-1)))
        if before < 0:
            return None
        path = folder / _folder_name(int(before))
        if not distributed.any_true(not is_complete(path, distributed.rank(), distributed.world_size())):
            return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoint folders, oldest first. Includes damaged checkpoints, but no temporary folders."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_step)


def latest_step(folder: Path) -> int:
    """Returns the step of the newest checkpoint, which may be incomplete, or 0 if there is no checkpoint."""
    return max(map(_step, list_checkpoints(folder)), default=0)


def is_complete(path: Path, rank: int = 0, world_size: int = 1) -> bool:
    """Returns whether the files of a checkpoint match its manifest. Each of `world_size` processes checks a part."""
    try:
        files = read_manifest(path)["files"]
        return all(files[name] == _digest(path / name) for name in sorted(files)[rank::world_size])
    except (OSError, ValueError):
        return False


def read_manifest(path: Path) -> JsonDict:
    """Reads the manifest of a checkpoint. Raises ValueError for a damaged and OSError for a missing manifest."""
    try:
        manifest = json.loads(read_bytes(path / _MANIFEST))
    except RecursionError:
        raise ValueError(f"the JSON in {path / _MANIFEST} is nested too deeply") from None
    if not isinstance(manifest, dict) or manifest.get("step") != _step(path):
        raise ValueError(f"the file {path / _MANIFEST} is not the manifest of the checkpoint '{path.name}'")
    if "files" not in manifest:  # the first format, of full checkpoints only
        entry = {"size": manifest.get("size"), "sha256": manifest.get("sha256")}
        return {"step": manifest["step"], "files": {_FULL: entry}}
    seal = manifest.pop("seal", None)
    if seal != _seal(manifest) or not isinstance(manifest["files"], dict):
        raise ValueError(f"the manifest {path / _MANIFEST} is damaged, because its hash or its list of files is wrong")
    if any(Path(name).name != name for name in manifest["files"]):
        raise ValueError(f"the manifest {path / _MANIFEST} contains names of files outside its folder")
    return manifest


def _folder_name(step: int) -> str:
    return f"step-{step:08d}"


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _seal(manifest: JsonDict) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> JsonDict:
    with open_regular(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}
