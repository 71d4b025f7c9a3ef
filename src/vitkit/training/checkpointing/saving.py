"""Saving and loading of training checkpoints: full or sharded, synchronously or in the background."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from vitkit import distributed
from vitkit.training.checkpointing import files
from vitkit.training.run import Hardware


class CheckpointNotSaved(ValueError):  # noqa: N818 - an end, as TrainingStopped is
    """Raised when a training checkpoint could not be saved. The earlier checkpoints are kept."""


def load_newest(folder: Path, allocate: files.Allocate | None = None) -> files.State | None:
    """Loads the newest complete checkpoint, or returns None. All processes must call this function.

    The tensors of a sharded checkpoint are read into those that `allocate` returns: this process's shards.
    """
    path = files.newest_complete(folder)
    if path is None:
        return None
    full = files.load_full(path)
    if full is not None:
        return full
    sharded = import_module("vitkit.training.checkpointing.sharded")  # torch.distributed.checkpoint is slow to import
    empty: files.Allocate = lambda path, shape, dtype: torch.empty(shape, dtype=dtype)  # noqa: E731
    return sharded.load(path, files.read_manifest(path), allocate or empty)


class CheckpointSaver:
    """Saves training checkpoints to a folder, and loads the newest one. All processes must call its methods.

    A full checkpoint is gathered and written by rank 0; of a sharded one each process writes its shards. With
    `hardware.async_save` the checkpoint is copied and written in the background, at most one at a time. An error in the
    background is raised in every process by the next `save`, by `wait`, or at the end of the context.
    """

    def __init__(self, folder: Path, hardware: Hardware):
        self.folder = folder
        self.keep = hardware.keep_checkpoints
        self.sharded = is_sharded(hardware)
        self.asynchronous = hardware.async_save
        if self.sharded:  # slow to import, so before the first save
            import_module("vitkit.training.checkpointing.sharded")
        # Communication of checkpoints must not interleave with that of gradients.
        self.group = distributed.background_group() if self.sharded else None
        self.thread = ThreadPoolExecutor(1, "save") if self.asynchronous and not self.sharded else None
        self.pending: Future[object] | None = None
        self.step: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.wait()
            elif (failure := self._failure()) is not None:  # no communication: other processes may have ended
                error.add_note(self._message(failure))
        finally:
            if self.thread is not None:
                self.thread.shutdown()

    def save(self, step: int, content: Mapping[str, object], *, last: bool = False) -> None:
        """Saves the checkpoint of a step. If `last` is True, waits until the files are on disk.

        Raises CheckpointNotSaved, in every process, if this checkpoint or the one before could not be saved.
        """
        self.wait()
        self.step = step
        background = self.asynchronous and not last
        if self.sharded:
            self.pending = self._save_sharded(step, content, background)
        else:
            self.pending = self._save_full(step, distributed.full(content), background)
        if not background:
            self.wait()

    def wait(self) -> None:
        """Waits until the last save is completed. Raises CheckpointNotSaved in every process if the save failed."""
        if self.step is None:
            return
        failure = self._failure()
        messages = distributed.all_gather((self._message(failure),) if failure is not None else ())
        if messages:
            raise CheckpointNotSaved(messages[0]) from failure

    def load_newest(self, allocate: files.Allocate) -> files.State | None:
        """Loads the newest complete checkpoint in the folder, or returns None."""
        return load_newest(self.folder, allocate)

    def _save_full(self, step: int, content: Mapping[str, object], background: bool) -> Future[object] | None:
        if not distributed.is_main_process():
            return None
        if background and self.thread is not None:
            return self.thread.submit(files.save, self.folder, step, copy_to_cpu(content), keep=self.keep)
        return _completed(files.save, self.folder, step, dict(content), keep=self.keep)

    def _save_sharded(self, step: int, content: Mapping[str, object], background: bool) -> Future[object]:
        from vitkit.training.checkpointing import sharded

        options = {"keep": self.keep, "group": self.group}
        if background:
            return sharded.async_save(self.folder, step, content, **options)
        return _completed(sharded.save, self.folder, step, content, **options)

    def _failure(self) -> BaseException | None:
        if self.pending is None:
            return None
        failure, self.pending = self.pending.exception(), None
        if failure is None or not self.sharded:
            return failure
        from vitkit.training.checkpointing import sharded

        return sharded.root_cause(failure)

    def _message(self, failure: BaseException) -> str:
        why = getattr(failure, "strerror", None) or str(failure) or type(failure).__name__
        earlier = files.list_checkpoints(self.folder)
        resume = f"the run resumes from '{earlier[-1].name}'" if earlier else "there is no earlier checkpoint"
        return f"the checkpoint of step {self.step} could not be saved in '{self.folder}': {why}; {resume}"


def is_sharded(hardware: Hardware) -> bool:
    """Returns whether the checkpoints of a run are sharded. With the format "auto", they are sharded under FSDP."""
    if hardware.checkpoint_format == "auto":
        return hardware.parallel == "fsdp"
    return hardware.checkpoint_format == "sharded"


def allocate_like(templates: Mapping[str, Tensor]) -> files.Allocate:
    """Returns a function that allocates the tensors of a checkpoint with the sharding of the tensors in `templates`.

    The template of a tensor is the one at its path, or at the path of its parent (`loop.checkpoint_templates`).
    """

    def allocate(path: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        path = path.removeprefix("training/")
        template = templates.get(path, templates.get(path.rpartition("/")[0]))
        if template is not None and distributed.is_shard(template) and tuple(template.shape) == shape:
            return torch.empty_like(template, dtype=dtype, requires_grad=False)
        return torch.empty(shape, dtype=dtype)

    return allocate


def copy_to_cpu(value: files.Nested) -> files.Nested:
    """Copies nested dicts, lists and tuples, and copies all tensors in them to the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return type(value)((key, copy_to_cpu(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value)(copy_to_cpu(item) for item in value)
    return value


def _completed(action: Callable[..., object], *arguments: object, **options: object) -> Future[object]:
    """Calls a function, and returns a completed future with its result or exception."""
    future: Future[object] = Future()
    try:
        future.set_result(action(*arguments, **options))
    except (OSError, ValueError, RuntimeError) as error:
        future.set_exception(error)
    return future
