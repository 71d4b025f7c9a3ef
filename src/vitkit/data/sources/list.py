"""Data source `list:images.txt`: a text file with one image path per line, for training without labels.

    flat/1.jpg
    flat/2.jpg

Paths are relative to the file, or absolute. Empty lines and lines that start with # are skipped. Images with labels are
listed in a CSV file (`csv:`) or a JSON-lines file (`jsonl:`).
"""

from pathlib import Path

from vitkit.data import Source
from vitkit.data.sources import listed_file
from vitkit.data.sources._columns import Labels
from vitkit.data.sources._listing import Listing
from vitkit.regular import problem, read_bytes


def open_source(location: str) -> dict[str, Source]:
    """Opens a list of image paths as the split `all`. Raises ValueError with the line number of a missing image."""
    path = listed_file(location, "list")
    keys: list[str] = []
    for number, line in enumerate(_lines(path), start=1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        wrong = "does not exist" if "\0" in key else problem(path.parent / key)
        if wrong:
            raise ValueError(f"{path.name}, line {number}: the image file {key[:80]!r} {wrong}")
        keys.append(key)
    if not keys:
        raise ValueError(f"{path.name} lists no images; expected one path per line")
    reason = f"{path.name} is a list of images without labels; list labels in a CSV file (csv:FILE)"
    return {"all": Listing(path.parent, keys, Labels((), [-1] * len(keys), unlabelled=reason))}


def _lines(path: Path) -> list[str]:
    """Returns the lines of the file. Undecodable bytes of file names are kept (surrogateescape)."""
    text = read_bytes(path).removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    return text.replace("\r\n", "\n").split("\n")
