"""`jsonl:photos.jsonl`: one JSON object a line, as in `{"path": "1.jpg", "label": "cat"}`; paths relative to the file.

Columns are found by their names, or named: `jsonl:photos.jsonl#image=file,label=species`. A label is a class's name or
number, or a list of them. A field `split` says train, val or test.
"""

import json
from pathlib import Path

from vitkit.data import Source
from vitkit.data.sources._columns import parse
from vitkit.data.sources._listing import Row, listed


def open_source(location: str) -> dict[str, Source]:
    """The pictures of a JSON-lines file by split; ValueError that names the line of whatever is wrong."""
    name, chosen = parse(location)
    path = Path(name).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no file '{name}': the source is written jsonl:FILE")
    rows = []
    with path.open("rb") as file:
        for line, data in enumerate(file, start=1):
            if data.strip():
                rows.append(Row(line, _fields(data, f"{path.name}, line {line}")))
    columns = list(dict.fromkeys(name for row in rows for name in row.fields))
    return listed(path, rows, columns, chosen)


def _fields(data: bytes, where: str) -> dict[str, object]:
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise ValueError(f"{where}: it is no JSON") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: it is no object with named fields")
    return value
