"""Restores the folder of a run if the run fails before its first step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vitkit import atomic, distributed
from vitkit.regular import read_bytes


@contextmanager
def undone(folder: Path, started: Callable[[], bool], saved: tuple[Path, ...] = ()) -> Iterator[None]:
    """Context manager that restores a folder if an exception is raised and `started()` is False.

    Files and folders that did not exist before are removed, including parents of `folder`. The files in `saved` get
    their earlier content. Other files are not changed. Only rank 0 restores the folder.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    before = set(folder.iterdir()) if folder.is_dir() else set()
    contents = {path: read_bytes(path) for path in saved if path.is_file()}
    try:
        yield
    except BaseException as error:
        if not started() and distributed.is_main_process():
            try:
                _restore(folder, missing, before, contents)
            except OSError as failure:
                error.add_note(f"what the run had created in '{folder}' could not be removed: {failure}")
        raise


def _restore(folder: Path, missing: list[Path], before: set[Path], contents: dict[Path, bytes]) -> None:
    for path in set(folder.iterdir()) - before if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            atomic.remove_folder(path)
        else:
            path.unlink()
    for path, content in contents.items():
        if not path.is_file() or read_bytes(path) != content:
            atomic.write_bytes(path, content)
    for path in missing:  # the folder, then its parents
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
