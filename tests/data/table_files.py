"""Small tables of images for the tests of the Parquet and Hub sources."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(number)).save(buffer, "PNG")
    return buffer.getvalue()


def image_column(numbers: range) -> pa.Array:
    return pa.array([{"bytes": png(number), "path": None} for number in numbers], STRUCT)


def write(path: Path, columns: dict[str, Any], features: dict[str, Any] | None = None, rows: int = 3) -> Path:
    """Write a Parquet file with row groups of `rows` rows and the features as `datasets` stores them."""
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows)
    return path
