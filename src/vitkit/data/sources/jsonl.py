"""Data source `jsonl:images.jsonl`: one JSON object per line, such as `{"path": "1.jpg", "label": "cat"}`.

Paths are relative to the file. Fields are found by name, or given: `jsonl:images.jsonl#image=file,label=species`. A
label is a class name or index, or a list of them; floats are targets of a regression. `#target=age` takes any numbers
as targets, also of several fields (`#target=x,target=y`). An optional field `split` contains train, val or test. If no
object has a label, the images have no labels.
"""

import json

from vitkit.data import Source
from vitkit.data.sources import listed_file
from vitkit.data.sources._columns import parse
from vitkit.data.sources._listing import Row, listing_splits
from vitkit.regular import open_regular


def open_source(location: str) -> dict[str, Source]:
    """Opens a JSON-lines file and returns its splits.

    Raises ValueError for a missing file, and one that names the line for an invalid row.
    """
    name, chosen = parse(location)
    path = listed_file(name, "jsonl")
    rows = []
    with open_regular(path) as file:
        for line, data in enumerate(file, start=1):
            if data.strip():
                rows.append(Row(line, _fields(data, f"{path.name}, line {line}")))
    columns = list(dict.fromkeys(name for row in rows for name in row.fields))
    return listing_splits(path, rows, columns, chosen)


def _fields(data: bytes, where: str) -> dict[str, object]:
    """Parses one line of the file. Returns the fields of its JSON object."""
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise ValueError(f"{where}: the line is not valid JSON") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: the line is not a JSON object; expected one object per image")
    return value
