"""`parquet:/data/cifar10`: tables with a picture column, as Hugging Face writes them; a folder, a file or a glob.

Local, or anywhere that fsspec reaches (`parquet:s3://bucket/imagenet`). Labels and class names are found by the
features that `datasets` leaves in them, else by the columns' names, or named: `parquet:photos#label=coarse_label`.
"""

import json
import os
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vitkit.data import EncodedSource, Label, Source
from vitkit.data.sources._columns import (
    choose_fitting,
    class_names,
    kind_of,
    labelled,
    number,
    parse,
    refuse_unlabelled,
    split_of,
)

#: How much of the files a process keeps at hand. Pictures come in random order, and a row group is read whole.
CACHE_BYTES = 512 << 20


class Parquet(EncodedSource):
    """The rows of some Parquet files, file by file; a key is a file's name and the number of the row in it.

    Row groups are read as they are asked for, and the latest `cache_bytes` of them kept: write files of pictures with
    small groups (about 100 rows). Raises ValueError that names file or row for tables that differ and labels that are
    none.
    """

    def __init__(self, system: Any, paths: list[str], chosen: dict[str, str], *, cache_bytes: int = CACHE_BYTES):
        self.system = system
        self.paths = paths
        self.cache_bytes = cache_bytes
        values: list[Any] = []
        groups: list[tuple[int, int, int]] = []  # file, row group, rows
        names: tuple[str, ...] | None = None
        self.offsets: list[int] = []
        for place, path in enumerate(paths):
            with self._open(path) as file:
                columns = _columns(file.schema_arrow, chosen, os.path.basename(path))
                if place and columns != (self.image, self.label_column, names):
                    raise ValueError(
                        f"{os.path.basename(path)} has other columns or classes than {os.path.basename(paths[0])}"
                    )
                self.image, self.label_column, names = columns
                self.offsets.append(len(values))
                values += file.read([self.label_column], use_threads=False)[self.label_column].to_pylist()
                counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
                groups += [(place, group, rows) for group, rows in enumerate(counts)]
        self.groups = groups
        # Among all rows: where each row group begins, and above where each file does.
        self.starts = np.cumsum([0, *(rows for _, _, rows in groups)])
        refuse_unlabelled(values, os.path.basename(paths[0]))
        self.classes, self.labels = number(values, names, self._name)
        self._forget()

    def __len__(self) -> int:
        """How many pictures there are."""
        return int(self.starts[-1])

    def encoded(self, index: int) -> tuple[bytes | Path, str]:
        """The file of a picture, or its bytes, and its key."""
        group = int(np.searchsorted(self.starts, index, side="right")) - 1
        value = self._group(group)[index - int(self.starts[group])].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        return data or b"", self._name(index)

    def label(self, index: int) -> Label:
        """The class number, or several."""
        return self.labels[index]

    def __getstate__(self) -> dict[str, Any]:
        # Open files and what was read from them stay in their process.
        return {**self.__dict__, "_process": None, "_files": {}, "_cache": OrderedDict()}

    def _forget(self) -> None:
        self._process: int | None = os.getpid()
        self._files: dict[int, Any] = {}
        self._cache: OrderedDict[int, Any] = OrderedDict()

    def _group(self, group: int) -> Any:
        """The picture column of a row group, from the cache or from its file."""
        if self._process != os.getpid():
            # A worker must neither move the read position of its parent's files nor speak on its connections.
            self._forget()
            self.system = type(self.system)(*self.system.storage_args, **self.system.storage_options)
        if group in self._cache:
            self._cache.move_to_end(group)
            return self._cache[group]
        place, inside, _ = self.groups[group]
        if place not in self._files:
            self._files[place] = self._open(self.paths[place])
        table = self._files[place].read_row_group(inside, [self.image], use_threads=False)
        self._cache[group] = table[self.image]
        while len(self._cache) > 1 and sum(each.nbytes for each in self._cache.values()) > self.cache_bytes:
            self._cache.popitem(last=False)
        return self._cache[group]

    def _open(self, path: str) -> Any:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile

        try:
            return ParquetFile(self.system.open(path, "rb"))
        except ArrowInvalid:
            raise ValueError(f"{os.path.basename(path)} is no Parquet file, or cut short") from None

    def _name(self, index: int) -> str:
        file = int(np.searchsorted(self.offsets, index, side="right")) - 1
        return f"{os.path.basename(self.paths[file])} row {index - self.offsets[file]}"


def open_source(location: str) -> dict[str, Source]:
    """The tables by split where their names begin with train, val or test, or a folder's does; else as `all`. Splits
    without any label are left out.

    Raises ValueError where there are none, ImportError without pyarrow.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise ImportError("the source 'parquet' needs pyarrow: pip install 'vitkit[data]'") from None
    name, chosen = parse(location)
    system, root, paths = _find(name)
    named: dict[str, list[str]] = {}
    for path in paths:
        below = os.path.relpath(path, root) if path != root else os.path.basename(path)
        named.setdefault(split_of(below) or "all", []).append(path)
    if "all" in named and len(named) > 1:
        named = {"all": paths}
    return labelled({split: partial(Parquet, system, some, chosen) for split, some in named.items()})


def _find(name: str) -> tuple[Any, str, list[str]]:
    """The file system of a location, the folder that the files are below, and the files in the order of their names."""
    from fsspec.core import url_to_fs

    try:
        system, root = url_to_fs(name if "://" in name else str(Path(name).expanduser()))
        if any(mark in root for mark in "*?["):
            paths = [str(path) for path in system.glob(root)]
            root = os.path.dirname(root[: min(root.index(mark) for mark in "*?[" if mark in root)])
        elif name and system.isdir(root):
            paths = [path for path in system.find(root) if path.endswith(".parquet")]
        else:
            paths = [root] if name and system.isfile(root) else []
    except ImportError as error:  # fsspec names the package that the protocol needs
        raise ImportError(f"'{name}' cannot be opened: {error}") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"'{name}' cannot be opened: {type(error).__name__}: {error}") from None
    if not paths:
        raise ValueError(f"there are no Parquet files at '{name}': write parquet:FOLDER, parquet:FILE or a glob")
    return system, root, sorted(paths)


def _columns(schema: Any, chosen: dict[str, str], where: str) -> tuple[str, str, tuple[str, ...] | None]:
    """The picture column, the label column and its class names, if the file has them."""
    info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = info.get("info", {}).get("features", {}) if isinstance(info, dict) else {}
    pictures = [name for name in schema.names if kind_of(features.get(name)) == "Image"]
    pictures = pictures or [name for name in schema.names if _holds_bytes(schema.field(name).type)]
    classes = [name for name in schema.names if class_names(features.get(name)) is not None]
    image = choose_fitting("image", pictures, schema.names, chosen, where)
    label = choose_fitting("label", classes, schema.names, chosen, where)
    if not _holds_bytes(schema.field(image).type):
        raise ValueError(f"{where}: the column '{image}' holds no pictures but {schema.field(image).type}")
    return image, label, class_names(features.get(label))


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(kind.field(place).name == "bytes" for place in range(kind.num_fields))
    return types.is_binary(kind) or types.is_large_binary(kind)
