"""Runs a function on batches of images in order, while threads read the images of the next batches."""

import ctypes
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TypeVar

import numpy as np
import torch

from vitkit.data.processor import ImageInput
from vitkit.images import ImageError, Limits, Unlisted, read_bytes


@dataclass(frozen=True)
class Fetched:
    """The content of an open file, which was read in the calling thread.

    Open files are not read in worker threads. Two inputs may be the same file or members of one archive, and cannot be
    read at the same time. A generator may also close a file when the next image is requested.
    """

    file: ImageInput
    data: bytes | ImageError


Read = Callable[[ImageInput], np.ndarray]
# An image and its pixels, or the error if it cannot be read.
Pair = tuple[ImageInput, np.ndarray | ImageError]
T = TypeVar("T")


def fetch(image: ImageInput, limits: Limits) -> ImageInput:
    """Reads an open file and returns a `Fetched`. Returns other images unchanged."""
    if not callable(getattr(image, "read", None)):
        return image
    try:
        return Fetched(image, read_bytes(image, limits))
    except ImageError as error:
        return Fetched(image, error)
    except (ValueError, TypeError, OSError) as error:  # such as a closed file
        return Fetched(image, ImageError("unreadable", str(error)))


def _origin(image: ImageInput) -> ImageInput:
    return image.file if isinstance(image, Fetched) else image


def read_ahead(
    source: Iterable[ImageInput], read: Read, run: Callable[[Sequence[Pair]], Sequence[T]], batch: int
) -> Iterator[T]:
    """Yields the results of `run` on each batch, in order. Meanwhile, threads read the images of the next batch."""
    source = iter(source)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="vitkit-decode") as pool:
        waiting: deque[tuple[ImageInput, Future[np.ndarray | ImageError]]] = deque()
        try:
            while True:
                for image in islice(source, 2 * batch - len(waiting)):
                    waiting.append((image, pool.submit(attempt, read, image)))
                if not waiting:
                    return
                taken = [waiting.popleft() for _ in range(min(batch, len(waiting)))]
                yield from run([(_origin(image), future.result()) for image, future in taken])
        finally:
            for _, future in waiting:
                future.cancel()


def run_in_workers(
    source: Iterable[ImageInput], read: Read, run: Callable[[Sequence[Pair]], Sequence[T]], batch: int, workers: int
) -> Iterator[T]:
    """Yields the results of `run` on each batch, in order. Worker threads call `run` on one core each.

    Each worker reads and runs its own batches on one core. This is faster on a CPU than one model on all threads, which
    wait in every layer for the slowest. At most two batches per worker are in progress; the last images are distributed
    evenly.
    """
    source = iter(source)

    def read_and_run(images: Sequence[ImageInput]) -> Sequence[T]:
        return run([(_origin(image), attempt(read, image)) for image in images])

    with ThreadPoolExecutor(workers, thread_name_prefix="vitkit-worker", initializer=_use_one_thread) as pool:
        waiting: deque[Future[Sequence[T]]] = deque()
        try:
            while True:
                while len(waiting) <= workers and (window := list(islice(source, workers * batch))):
                    size = -(-len(window) // workers)
                    parts = (window[start : start + size] for start in range(0, len(window), size))
                    waiting.extend(pool.submit(read_and_run, part) for part in parts)
                if not waiting:
                    return
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def num_workers() -> int:
    """Returns the number of workers for `run_in_workers`. It is 1 if the number of torch threads cannot be limited."""
    threads = torch.get_num_threads()
    return threads if threads > 1 and _can_use_one_thread() else 1


@lru_cache(maxsize=1)
def _can_use_one_thread() -> bool:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_use_one_thread).result()


def _use_one_thread() -> bool:
    """Limits torch to one thread in the calling thread. Returns whether that is possible.

    Not `torch.set_num_threads`: it also changes threads that start later, and the matrix library in all threads.
    """
    torch.get_num_threads()  # the first call in a thread copies the setting of the process, so it must come before ours
    set_num_threads = getattr(ctypes.CDLL(None), "omp_set_num_threads", None) if os.name == "posix" else None
    if set_num_threads is not None:
        set_num_threads(1)
    return torch.get_num_threads() == 1


def attempt(read: Read, image: ImageInput) -> np.ndarray | ImageError:
    """Returns the pixels of an image, or an error if the image cannot be read or has the wrong type or shape."""
    if isinstance(image, Unlisted):
        return image.error
    if isinstance(image, Fetched):
        return image.data if isinstance(image.data, ImageError) else attempt(read, image.data)
    try:
        return read(image)
    except ImageError as error:
        return error
    except (ValueError, TypeError) as error:
        return ImageError("unsupported_format", str(error))
