"""Readers of weights files. There is one module per file type, each with a function `open_file(path) -> Tensors`.

`open_file` reads headers only. Headers are validated, also against the file size, before memory is allocated for
values. No code is executed.
"""

from pathlib import Path

from vitkit import regular
from vitkit.checkpoints.checkpoint import CheckpointError
from vitkit.checkpoints.tensors import Tensors
from vitkit.regular import open_regular

SUFFIXES = {
    ".safetensors": "safetensors",
    ".npz": "npz",
    ".pth": "pickled",
    ".pt": "pickled",
    ".bin": "pickled",
    ".ckpt": "pickled",
    ".pkl": "pickled",
    ".tar": "pickled",  # MoCo v3's .pth.tar files are not tar archives
    ".msgpack": "msgpack",
    ".json": "sharded",
}
# What users have instead of weights, by the first bytes of the file.
NOT_WEIGHTS: tuple[tuple[bytes, str], ...] = (
    (
        b"version https://git-lfs",
        "the file is a Git LFS pointer, not the weights; run `git lfs pull` in its repository, or download the file",
    ),
    (
        b"<!doctype html",
        "the file is an HTML page, not weights; download the raw file (URL with /resolve/, not /blob/)",
    ),
    (
        b"<html",
        "the file is an HTML page, not weights; download the raw file (URL with /resolve/, not /blob/)",
    ),
    (b"<?xml", "the file is an XML page (perhaps a server error), not weights; download the file again"),
    (b"\x1f\x8b", "the file is compressed with gzip; unpack it first (gunzip)"),
    (b"7z\xbc\xaf", "the file is a 7z archive; unpack it first"),
    (b"Rar!", "the file is a RAR archive; unpack it first"),
    (
        b"\x89HDF\r\n",
        "the file is a Keras HDF5 file, which vitkit does not support; save the weights as .npz or .safetensors",
    ),
)
TAR = "the file is a tar archive; unpack it and pass the weights file that it contains"


def open_weights(path: Path, *, inside_modules: bool = False) -> Tensors:
    """Opens a weights file with the reader for its suffix. Raises CheckpointError if the file is invalid.

    With `inside_modules`, pickled modules are read as dicts of their parameters and buffers.
    """
    from importlib import import_module

    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise CheckpointError(f"{path.name} is not a weights file; supported suffixes are {', '.join(SUFFIXES)}")
    try:
        check_regular(path)
        _check_start(path)
        options = {"inside_modules": True} if inside_modules and kind == "pickled" else {}
        return import_module(f"{__name__}.{kind}").open_file(path, **options)
    except CheckpointError as error:
        raise CheckpointError(f"{path.name}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror or type(error).__name__}") from None


def check_regular(path: Path) -> None:
    """Raises CheckpointError for a named pipe, device or socket, because reading it could block or never end."""
    try:
        regular.check_regular(path)
    except regular.NotRegularError as error:
        raise CheckpointError(
            f"the path is {error.kind}, not a regular file; pass a weights file or the folder that contains it"
        ) from None


def _check_start(path: Path) -> None:
    """Raises CheckpointError if the first bytes of a file show that it is not a weights file."""
    with open_regular(path) as file:
        start = file.read(512)
    if not start:
        raise CheckpointError("the file is empty (0 bytes); download or copy the file again")
    text = start.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for signature, message in NOT_WEIGHTS:
        if start.startswith(signature) or text.startswith(signature):
            raise CheckpointError(message)
    if start[257:262] == b"ustar":
        raise CheckpointError(TAR)
