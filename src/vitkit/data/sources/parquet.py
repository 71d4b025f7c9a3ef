"""Data source `parquet:/data/cifar10`: Parquet files with an image column, as Hugging Face writes them.

The location is a folder, a file or a glob, local or supported by fsspec (`parquet:s3://bucket/imagenet`). Image and
label columns are found by the features that `datasets` stores in the file, else by name, or given:
`parquet:images#label=coarse_label`. Labels that are floats are targets of a regression; `#target=age` takes any numbers
as targets, also several columns (`#target=x,target=y`).
"""

import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitkit.data import Source
from vitkit.data.sources import distinct_names, split_of
from vitkit.data.sources._columns import (
    Table,
    choose_by_type,
    class_names,
    encode,
    feature_type,
    label_columns,
    parse,
)
from vitkit.regular import check_regular

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from pyarrow import ChunkedArray, DataType, Schema
    from pyarrow.parquet import ParquetFile

#: Bytes of row groups that a process caches. Images are read in random order, and a row group is read as one.
CACHE_BYTES = 512 << 20


class Parquet(Table):
    """The rows of Parquet files, in order. The key of an image is the file name with the row number.

    Row groups are read on demand; the last used `cache_bytes` of them are cached. Files of images should have small row
    groups (about 100 rows). Raises ValueError that names the file or row for files with different columns and for
    invalid labels.
    """

    def __init__(
        self, system: "AbstractFileSystem", paths: list[str], chosen: dict[str, str], *, cache_bytes: int = CACHE_BYTES
    ):
        self.system = system
        self.paths = paths
        self.names = distinct_names(paths)
        self.cache_bytes = cache_bytes
        values: list[Any] = []
        groups: list[tuple[int, int, int]] = []  # file, row group, rows
        names: tuple[str, ...] | None = None
        named: tuple[str, ...] = ()
        unlabelled = ""
        self.offsets: list[int] = []
        for number, path in enumerate(paths):
            with self._open(path) as file:
                image, label, stored, unlabelled = _columns(file.schema_arrow, chosen, os.path.basename(path))
                if number and (image, label, stored) != (self.image, named, names):
                    raise ValueError(
                        f"{os.path.basename(path)} and {os.path.basename(paths[0])} have different "
                        "columns or classes; all files of a split must have the same columns and classes"
                    )
                self.image, named, names = image, label, stored
                self.offsets.append(len(values))
                values += _values(file, named)
                counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
                groups += [(number, group, rows) for group, rows in enumerate(counts)]
        self.groups = groups
        # Index of the first row of each row group; `offsets` has the same for files.
        self.starts = np.cumsum([0, *(rows for _, _, rows in groups)])
        unlabelled = unlabelled or f"{os.path.basename(paths[0])}: no image has a label"
        targets = "target" in chosen
        super().__init__(encode(values, named, names, self._name, targets=targets, unlabelled=unlabelled))
        self._reset()

    def __len__(self) -> int:
        """Returns the number of images."""
        return int(self.starts[-1])

    def encoded(self, index: int) -> tuple[bytes | Path, str]:
        """Returns the path or the bytes of an image file, and the key that names the image in messages."""
        group = int(np.searchsorted(self.starts, index, side="right")) - 1
        value = self._group(group)[index - int(self.starts[group])].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        return data or b"", self._name(index)

    def key(self, index: int) -> str:
        """Returns the file name with the row number, counted from 0."""
        return self._name(index)

    def __getstate__(self) -> dict[str, object]:
        # Open files and cached row groups are not passed to other processes.
        return {**self.__dict__, "_process": None, "_files": {}, "_cache": OrderedDict()}

    def _reset(self) -> None:
        self._process: int | None = os.getpid()
        self._files: dict[int, ParquetFile] = {}
        self._cache: OrderedDict[int, ChunkedArray] = OrderedDict()

    def _group(self, group: int) -> "ChunkedArray":
        """Returns the image column of a row group from the cache or from the file."""
        if self._process != os.getpid():
            # A worker process must not share file positions or connections with its parent.
            self._reset()
            self.system = type(self.system)(*self.system.storage_args, **self.system.storage_options)
        if group in self._cache:
            self._cache.move_to_end(group)
            return self._cache[group]
        number, inside, _ = self.groups[group]
        if number not in self._files:
            self._files[number] = self._open(self.paths[number])
        table = self._files[number].read_row_group(inside, [self.image], use_threads=False)
        self._cache[group] = table[self.image]
        while len(self._cache) > 1 and sum(each.nbytes for each in self._cache.values()) > self.cache_bytes:
            self._cache.popitem(last=False)
        return self._cache[group]

    def _open(self, path: str) -> "ParquetFile":
        from fsspec.implementations.local import LocalFileSystem
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile

        if isinstance(self.system, LocalFileSystem):
            check_regular(path)

        try:
            return ParquetFile(self.system.open(path, "rb"))
        except ArrowInvalid:
            raise ValueError(
                f"{os.path.basename(path)} is not a Parquet file, or is truncated; copy the file again"
            ) from None

    def _name(self, index: int) -> str:
        file = int(np.searchsorted(self.offsets, index, side="right")) - 1
        return f"{self.names[file]} row {index - self.offsets[file]}"


def _values(file: "ParquetFile", columns: tuple[str, ...]) -> list[Any]:
    """Returns the stored labels or targets of all rows of a file, or None for every row if there is no such column."""
    if not columns:
        return [None] * file.metadata.num_rows
    table = file.read(list(columns), use_threads=False)
    several = [table[name].to_pylist() for name in columns]
    return several[0] if len(columns) == 1 else list(zip(*several, strict=True))


def open_source(location: str) -> dict[str, Source]:
    """Opens Parquet files. Returns the splits found in the file names, or the split `all` if a file name has none.

    Raises ValueError if there are no files, ImportError without pyarrow.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise ImportError("data source 'parquet' needs the package pyarrow: pip install 'vitkit[data]'") from None
    name, chosen = parse(location)
    system, root, paths = _find(name)
    named: dict[str, list[str]] = {}
    for path in paths:
        below = os.path.relpath(path, root) if path != root else os.path.basename(path)
        named.setdefault(split_of(below) or "all", []).append(path)
    if "all" in named and len(named) > 1:
        named = {"all": paths}
    return {split: Parquet(system, files, chosen) for split, files in named.items()}


def _find(name: str) -> tuple["AbstractFileSystem", str, list[str]]:
    """Returns the fsspec file system and the root folder of a location, and the sorted paths of its Parquet files."""
    from fsspec.core import url_to_fs

    try:
        system, root = url_to_fs(name if "://" in name else str(Path(name).expanduser()))
        if any(mark in root for mark in "*?["):
            paths = [str(path) for path in system.glob(root)]
            root = os.path.dirname(root[: min(root.index(mark) for mark in "*?[" if mark in root)])
        elif name and system.isdir(root):
            paths = [path for path in system.find(root) if path.endswith(".parquet")]
        else:
            # What is not a regular file is rejected when it is opened.
            paths = [root] if name and system.exists(root) else []
    except ImportError as error:  # the message of fsspec names the missing package
        raise ImportError(f"'{name}' cannot be opened: {error}") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"'{name}' cannot be opened: {type(error).__name__}: {error}") from None
    if not paths:
        raise ValueError(f"no Parquet files at '{name}'; expected parquet:FOLDER, parquet:FILE or a glob")
    return system, root, sorted(paths)


def _columns(
    schema: "Schema", chosen: dict[str, str], where: str
) -> tuple[str, tuple[str, ...], tuple[str, ...] | None, str]:
    """Returns the image column, label or target columns, class names, and the reason if there are no labels.

    The class names are None if the file has none.
    """
    info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = info.get("info", {}).get("features", {}) if isinstance(info, dict) else {}
    images = [name for name in schema.names if feature_type(features.get(name)) == "Image"]
    images = images or [name for name in schema.names if _holds_bytes(schema.field(name).type)]
    classes = [name for name in schema.names if class_names(features.get(name)) is not None]
    image = choose_by_type("image", images, schema.names, chosen, where)
    labels, unlabelled = label_columns(schema.names, chosen, where, classes)
    if not _holds_bytes(schema.field(image).type):
        raise ValueError(f"{where}: the column '{image}' has type {schema.field(image).type}; expected encoded images")
    has_names = labels and "target" not in chosen
    return image, labels, class_names(features.get(labels[0])) if has_names else None, unlabelled


def _holds_bytes(kind: "DataType") -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(kind.field(index).name == "bytes" for index in range(kind.num_fields))
    return types.is_binary(kind) or types.is_large_binary(kind)
