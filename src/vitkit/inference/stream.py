"""Images through a network in order, reading and computing at once: in two ways, `ahead` and `in_lanes`."""

import ctypes
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch

from vitkit.images import ImageError

Read = Callable[[Any], np.ndarray]
# An image and its pixels, or why there are none.
Pair = tuple[Any, np.ndarray | ImageError]
T = TypeVar("T")


def ahead(source: Iterable[Any], read: Read, run: Callable[[Sequence[Pair]], Sequence[T]], batch: int) -> Iterator[T]:
    """What `run` makes of each batch, in this thread, on all the threads it has; the next one is read meanwhile."""
    source = iter(source)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="vitkit-decode") as pool:
        waiting: deque[tuple[Any, Future[np.ndarray | ImageError]]] = deque()
        try:
            while True:
                for image in islice(source, 2 * batch - len(waiting)):
                    waiting.append((image, pool.submit(_attempt, read, image)))
                if not waiting:
                    return
                taken = [waiting.popleft() for _ in range(min(batch, len(waiting)))]
                yield from run([(image, future.result()) for image, future in taken])
        finally:
            for _, future in waiting:
                future.cancel()


def in_lanes(
    source: Iterable[Any], read: Read, run: Callable[[Sequence[Pair]], Sequence[T]], batch: int, lanes: int
) -> Iterator[T]:
    """The same with as many threads as `lanes`, each of which reads a batch and runs it alone.

    On a CPU: a network on all threads waits in every layer for the slowest, which is the one that also decodes.
    Up to two batches a lane are read ahead; the last pictures are shared evenly.
    """
    source = iter(source)

    def whole(images: Sequence[Any]) -> Sequence[T]:
        return run([(image, _attempt(read, image)) for image in images])

    with ThreadPoolExecutor(lanes, thread_name_prefix="vitkit-lane", initializer=_alone) as pool:
        waiting: deque[Future[Sequence[T]]] = deque()
        try:
            while True:
                while len(waiting) <= lanes and (window := list(islice(source, lanes * batch))):
                    size = -(-len(window) // lanes)
                    parts = (window[start : start + size] for start in range(0, len(window), size))
                    waiting.extend(pool.submit(whole, part) for part in parts)
                if not waiting:
                    return
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def lanes() -> int:
    """How many threads of torch can run a network of their own each: all of them, or 1 where they cannot be told to."""
    threads = torch.get_num_threads()
    return threads if threads > 1 and _can_be_alone() else 1


@lru_cache(maxsize=1)
def _can_be_alone() -> bool:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_alone).result()


def _alone() -> bool:
    """Makes torch use this thread alone in what this thread runs; whether it could.

    `torch.set_num_threads` would also be heard by threads that begin later, and by the matrix library in all of them.
    """
    torch.get_num_threads()  # the first call in a thread takes the process's number over: not after ours
    tell = getattr(ctypes.CDLL(None), "omp_set_num_threads", None) if os.name == "posix" else None
    if tell is not None:
        tell(1)
    return torch.get_num_threads() == 1


def _attempt(read: Read, image: Any) -> np.ndarray | ImageError:
    try:
        return read(image)
    except ImageError as error:
        return error
