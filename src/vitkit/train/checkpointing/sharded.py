"""Sharded states: each process writes and reads its own part, by torch.distributed.checkpoint, beside the training
where that is wanted.
"""

import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from vitkit.train.checkpointing import _storage, files
from vitkit.train.checkpointing._storage import Reader, Writer


def save(folder: Path, step: int, held: Mapping[str, Any], *, keep: int, group: Any = None) -> None:
    """Writes the state of a step, each process its shards; all take part, talking over `group`.

    Raises ValueError and OSError as `state.save`, in all processes, whichever of them failed.
    """
    tensors, rest = _storage.parted(held)
    with _told_plainly():
        state_dict_saver.save(tensors, storage_writer=Writer(folder, step, rest, keep), process_group=group)


def save_beside(folder: Path, step: int, held: Mapping[str, Any], *, keep: int, group: Any = None) -> Future[Any]:
    """As `save`, but returns as soon as the shards are copied; the future is done when the state is on the disk."""
    tensors, rest = _storage.parted(held)
    with _told_plainly():
        writer = Writer(folder, step, rest, keep)
        written = state_dict_saver.async_save(tensors, storage_writer=writer, process_group=group)
    assert isinstance(written, Future)
    return written


def load(path: Path, manifest: dict[str, Any], like: files.Like, group: Any = None) -> dict[str, Any]:
    """The state in a folder, each process its shards of it: into what `like` gives for each tensor.

    Raises ValueError where manifest, files and `like` do not fit together.
    """
    reader = Reader(path, manifest)
    tensors = {
        name: like(name, tuple(each.size), each.properties.dtype)
        for name, each in reader.metadata.state_dict_metadata.items()
        if isinstance(each, TensorStorageMetadata)
    }
    with _told_plainly():
        state_dict_loader.load(tensors, storage_reader=reader, process_group=group)
    return _storage.joined(manifest["content"], tensors)


class _told_plainly:  # noqa: N801 - a context
    """What the library wraps is raised as what it is: its exceptions are not made to be caught, nor to be read."""

    def __enter__(self) -> None:
        # It warns when there is one process only, which is a choice.
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized", UserWarning)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is not None and (cause := reason(error)) is not error:
            raise cause from None


def reason(error: BaseException) -> BaseException:
    """The exception of the process that failed, out of what torch.distributed.checkpoint raises for it."""
    if not isinstance(error, CheckpointException):
        return error
    cause = next(iter(error.failures.values()))[0]
    if isinstance(cause, SafetensorError):  # raised for a full disk too
        return OSError(str(cause))
    return cause if isinstance(cause, OSError | ValueError) else ValueError(f"{type(cause).__name__}: {cause}")
