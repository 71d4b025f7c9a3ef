"""Sharded checkpoints with torch.distributed.checkpoint: each process saves and loads its own shards."""

import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from vitkit.config import Json
from vitkit.training.checkpointing import _storage, files
from vitkit.training.checkpointing._storage import Reader, Writer


def save(
    folder: Path, step: int, content: Mapping[str, object], *, keep: int, group: ProcessGroup | None = None
) -> None:
    """Saves the sharded checkpoint of a step. All processes must call this function, and communicate over `group`.

    Raises ValueError and OSError as `files.save`, in all processes if one of them failed.
    """
    tensors, rest = _storage.split_tensors(content)
    with _original_errors():
        state_dict_saver.save(tensors, storage_writer=Writer(folder, step, rest, keep), process_group=group)


def async_save(
    folder: Path, step: int, content: Mapping[str, object], *, keep: int, group: ProcessGroup | None = None
) -> Future[object]:
    """Copies the shards and saves them in the background. Returns a future that completes when all shards are saved."""
    tensors, rest = _storage.split_tensors(content)
    with _original_errors():
        writer = Writer(folder, step, rest, keep)
        written = state_dict_saver.async_save(tensors, storage_writer=writer, process_group=group)
    assert isinstance(written, Future)
    return written


def load(path: Path, manifest: Json, allocate: files.Allocate, group: ProcessGroup | None = None) -> files.State:
    """Loads the shards of each process from a checkpoint into the tensors that `allocate` returns.

    Raises ValueError if the manifest, the files and the allocated tensors do not fit together.
    """
    reader = Reader(path, manifest)
    tensors = {
        name: allocate(name, tuple(each.size), each.properties.dtype)
        for name, each in reader.metadata.state_dict_metadata.items()
        if isinstance(each, TensorStorageMetadata)
    }
    with _original_errors():
        state_dict_loader.load(tensors, storage_reader=reader, process_group=group)
    return _storage.join_tensors(manifest["content"], tensors)


@contextmanager
def _original_errors() -> Iterator[None]:
    """Context manager that raises the original exceptions instead of those of torch.distributed.checkpoint."""
    warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized", UserWarning)
    try:
        yield
    except BaseException as error:
        if (cause := root_cause(error)) is not error:
            raise cause from None
        raise


def root_cause(error: BaseException) -> BaseException:
    """Returns the original exception of a process that torch.distributed.checkpoint has wrapped in `error`."""
    if not isinstance(error, CheckpointException):
        return error
    cause = next(iter(error.failures.values()))[0]
    if isinstance(cause, SafetensorError):  # also raised for a full disk
        return OSError(str(cause))
    return cause if isinstance(cause, OSError | ValueError) else ValueError(f"{type(cause).__name__}: {cause}")
