"""Saves results as tables (.csv, .jsonl, .parquet) and arrays (.npz). Files are written atomically."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from vitkit import atomic
from vitkit.config import JsonDict
from vitkit.images import ImageError
from vitkit.text import json_text, printable

TABLES = (".csv", ".jsonl", ".parquet")
ARRAYS = (".npz", *TABLES)


def error_dict(name: str, error: ImageError | None) -> JsonDict:
    """Returns a dict for JSON with the error of an image that could not be read."""
    return {"path": name, "error": None if error is None else {"code": error.code, "message": str(error)}}


def pandas() -> Any:
    """Imports and returns pandas. If it is not installed, raises ImportError with the install command."""
    return _installed("pandas", "to_pandas", "pip install pandas")


def _installed(module: str, what: str, how: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise ImportError(f"{what} needs {module}, which is not installed: {how}") from None


def check_suffix(path: Path, suffixes: Sequence[str]) -> str:
    """Returns the suffix of a path.

    Raises ValueError if it is not in `suffixes` or the folder does not exist.
    """
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise ValueError(f"the output file is '{printable(path)}'; its name must end in {', '.join(suffixes)}")
    if not path.parent.is_dir():
        raise ValueError(f"the folder '{printable(path.parent)}' of the output file does not exist")
    return suffix


def save(
    path: str | os.PathLike[str],
    columns: Sequence[str],
    rows: Iterable[tuple[object, ...]],
    dicts: Iterable[JsonDict],
) -> None:
    """Saves a table in the format of the suffix: `rows` as .csv or .parquet, or `dicts` as .jsonl."""
    target = Path(path).expanduser()
    suffix = check_suffix(target, TABLES)
    if suffix == ".parquet":
        pyarrow = _installed("pyarrow", "a .parquet file", "pip install 'vitkit[data]'")
        values = list(zip(*rows, strict=True)) or [[] for _ in columns]
        table = {name: list(column) for name, column in zip(columns, values, strict=True)}
        _write_parquet(target, pyarrow.table(table))
    elif suffix == ".csv":
        atomic.write_file(target, lambda part: _write_csv(part, columns, rows))
    else:
        atomic.write_file(target, lambda part: _write_lines(part, dicts))


def csv_row(columns: Sequence[str], row: tuple[object, ...]) -> list[str]:
    """Formats the fields of a CSV row. Scores have six decimals, and text has no control characters."""
    return [_csv_field(name, value) for name, value in zip(columns, row, strict=True)]


def _csv_field(name: str, value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6f}" if name == "score" else f"{value:.9g}"
    return "" if value is None else str(value).lower() if isinstance(value, bool) else printable(value)


def _write_csv(part: Path, columns: Sequence[str], rows: Iterable[tuple[object, ...]]) -> None:
    with part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(csv_row(columns, row) for row in rows)


def _write_lines(part: Path, dicts: Iterable[JsonDict]) -> None:
    with part.open("w", encoding="utf-8") as file:
        file.writelines(f"{json_text(each)}\n" for each in dicts)


def _write_parquet(target: Path, table: Any) -> None:
    parquet = import_module("pyarrow.parquet")
    atomic.write_file(target, lambda part: parquet.write_table(table, part))


def save_embeddings(
    path: str | os.PathLike[str],
    names: Sequence[str],
    vectors: np.ndarray,
    blocks: Mapping[int, Sequence[np.ndarray]],
    dicts: Iterable[JsonDict],
) -> None:
    """Saves vectors and block outputs in the format of the suffix: arrays, table rows, or `dicts` as .jsonl."""
    target = Path(path).expanduser()
    suffix = check_suffix(target, ARRAYS)
    if not names:
        raise ValueError(f"no image could be read, so there is nothing to save in '{printable(path)}'")
    taps = {f"block_{block}": _stacked(block, outputs) for block, outputs in blocks.items()}
    if suffix == ".npz":
        arrays = {"paths": np.array(names), "embeddings": vectors, **taps}
        atomic.write_file(target, lambda part: _write_arrays(part, arrays))
    elif suffix == ".parquet":
        pyarrow = _installed("pyarrow", "a .parquet file", "pip install 'vitkit[data]'")
        columns = {name: [row.ravel() for row in rows] for name, rows in {"embedding": vectors, **taps}.items()}
        _write_parquet(target, pyarrow.table({"path": [printable(name) for name in names], **columns}))
    elif suffix == ".csv":
        if taps:
            raise ValueError(
                "a .csv file has no place for the outputs of blocks; save them as .npz, .jsonl or .parquet"
            )
        rows = ((name, *map(float, vector)) for name, vector in zip(names, vectors, strict=True))
        atomic.write_file(target, lambda part: _write_csv(part, ("path", *map(str, range(vectors.shape[-1]))), rows))
    else:
        atomic.write_file(target, lambda part: _write_lines(part, dicts))


def _stacked(block: int, outputs: Sequence[np.ndarray]) -> np.ndarray:
    if len(shapes := {output.shape for output in outputs}) > 1:
        raise ValueError(
            f"the feature maps of block {block} have different shapes: {sorted(shapes)}; set image_size (--image-size)"
        )
    return np.stack(outputs)


def _write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)
