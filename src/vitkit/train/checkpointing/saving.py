"""How the states of a run are written: whole or sharded, before the next step or beside it, and never silently not."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from vitkit import distributed
from vitkit.train.checkpointing import files
from vitkit.train.run import Machine


class NotSaved(ValueError):  # noqa: N818 - an end, as TrainingStopped is
    """A state could not be written; those before it are still there."""


def load_newest(folder: Path, like: files.Like | None = None) -> dict[str, Any] | None:
    """Loads the newest complete checkpoint, None if there is none; called by all processes.

    The tensors of a sharded checkpoint are read into what `like` returns for them: this process's shards.
    """
    path = files.newest(folder)
    if path is None:
        return None
    full = files.load_full(path)
    if full is not None:
        return full
    sharded = import_module("vitkit.train.checkpointing.sharded")  # torch.distributed.checkpoint is slow to import
    empty: files.Like = lambda path, shape, dtype: torch.empty(shape, dtype=dtype)  # noqa: E731
    return sharded.load(path, files.manifest(path), like or empty)


class Saver:
    """Writes states into their folder, and reads the newest; all processes call it together.

    A whole state is gathered and written by the main process; of a sharded one each process writes its part. Beside the
    training (`machine.save_beside`) the state is copied, and written while the loop goes on: at most one at a time, and
    one that failed is raised by the next `save`, by `wait`, or at the end of the context, in every process.
    """

    def __init__(self, folder: Path, machine: Machine):
        self.folder = folder
        self.keep = machine.keep
        self.sharded = sharded(machine)
        self.beside = machine.save_beside
        if self.sharded:  # slow to import: now, and not in the first save
            import_module("vitkit.train.checkpointing.sharded")
        # Talks about states must not mix with the exchange of gradients.
        self.group = distributed.background_group() if self.sharded else None
        self.thread = ThreadPoolExecutor(1, "save") if self.beside and not self.sharded else None
        self.written: Future[Any] | None = None
        self.step: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.wait()
            elif (failure := self._outcome()) is not None:  # alone: the others may not be here any more
                error.add_note(self._sentence(failure))
        finally:
            if self.thread is not None:
                self.thread.shutdown()

    def save(self, step: int, held: Mapping[str, Any], *, last: bool = False) -> None:
        """Writes the state of a step; with `last` it is on the disk when this returns, also beside the training.

        Raises NotSaved, in every process, where this state or the one before it could not be written.
        """
        self.wait()
        self.step = step
        if self.sharded:
            self.written = self._sharded(step, held, self.beside and not last)
        else:
            self.written = self._whole(step, distributed.full(held), self.beside and not last)
        if last or not self.beside:
            self.wait()

    def wait(self) -> None:
        """Returns when nothing is being written any more; NotSaved, in every process, where it could not be."""
        if self.step is None:
            return
        failure = self._outcome()
        texts = distributed.all_gather((self._sentence(failure),) if failure is not None else ())
        if texts:
            raise NotSaved(texts[0]) from failure

    def newest(self, like: files.Like) -> dict[str, Any] | None:
        """The newest whole state there is, as `state.load_newest`."""
        return load_newest(self.folder, like)

    def _whole(self, step: int, held: Mapping[str, Any], beside: bool) -> Future[Any] | None:
        if not distributed.is_main_process():
            return None
        if beside and self.thread is not None:
            return self.thread.submit(files.save, self.folder, step, copied(held), keep=self.keep)
        return _done(files.save, self.folder, step, dict(held), keep=self.keep)

    def _sharded(self, step: int, held: Mapping[str, Any], beside: bool) -> Future[Any]:
        from vitkit.train.checkpointing import sharded

        options = {"keep": self.keep, "group": self.group}
        if beside:
            return sharded.save_beside(self.folder, step, held, **options)
        return _done(sharded.save, self.folder, step, held, **options)

    def _outcome(self) -> BaseException | None:
        if self.written is None:
            return None
        failure, self.written = self.written.exception(), None
        if failure is None or not self.sharded:
            return failure
        from vitkit.train.checkpointing import sharded

        return sharded.reason(failure)

    def _sentence(self, failure: BaseException) -> str:
        why = getattr(failure, "strerror", None) or str(failure) or type(failure).__name__
        there = files.states(self.folder)
        before = f"the run goes on from '{there[-1].name}'" if there else "there is no state before it"
        return f"the state of step {self.step} could not be written into '{self.folder}': {why}; {before}"


def sharded(machine: Machine) -> bool:
    """Whether a run's states are sharded: what it says, else as its model is."""
    return machine.parallel == "fsdp" if machine.state == "auto" else machine.state == "sharded"


def like(places: Mapping[str, Tensor]) -> files.Like:
    """How a run takes up sharded states: a tensor lies as the one in `places` at its path, or at the folder of that."""

    def made(path: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        path = path.removeprefix("training/")
        other = places.get(path, places.get(path.rpartition("/")[0]))
        if other is not None and distributed.is_shard(other) and tuple(other.shape) == shape:
            return torch.empty_like(other, dtype=dtype, requires_grad=False)
        return torch.empty(shape, dtype=dtype)

    return made


def copied(value: Any) -> Any:
    """Anything with tensors in it, each a copy of its own on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return type(value)((key, copied(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value)(copied(item) for item in value)
    return value


def _done(action: Any, *arguments: Any, **options: Any) -> Future[Any]:
    """The outcome of something that is done at once, as a future has it."""
    future: Future[Any] = Future()
    try:
        future.set_result(action(*arguments, **options))
    except (OSError, ValueError, RuntimeError) as error:
        future.set_exception(error)
    return future
