"""`csv:photos.csv`: a table of pictures with a header, as in `path,label`; paths are relative to the file.

Columns are found by their names, or named: `csv:photos.csv#image=file,label=species`. A label is a class's name or
number; several stand with bars between them, `cat|dog`. A column `split` says train, val or test.
"""

import csv
from pathlib import Path
from typing import Any

from vitkit.data import Source
from vitkit.data.sources._columns import choose, parse
from vitkit.data.sources._listing import Row, listed


def open_source(location: str) -> dict[str, Source]:
    """The pictures of a CSV file by split; ValueError that names the line of whatever is wrong."""
    name, chosen = parse(location)
    path = Path(name).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no file '{name}': the source is written csv:FILE")
    columns, rows = _rows(path)
    return listed(path, _with_labels(rows, choose("label", columns, chosen, path.name)), columns, chosen)


def _rows(path: Path) -> tuple[list[str], list[Row]]:
    """The header and the rows; commas, or semicolons or tabs where the header has no comma."""
    rows = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            header = file.readline()
            file.seek(0)
            delimiter = next((each for each in ",;\t" if each in header), ",")
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            columns = [name.strip() for name in next(reader, [])]
            for cells in reader:
                if cells and len(cells) != len(columns):
                    raise ValueError(
                        f"{path.name}, line {reader.line_num}: it has {len(cells)} values, the header {len(columns)}"
                    )
                if cells:
                    rows.append(Row(reader.line_num, dict(zip(columns, map(str.strip, cells), strict=True))))
        except UnicodeDecodeError:
            raise ValueError(f"{path.name} is not text in UTF-8") from None
        except csv.Error as error:
            raise ValueError(f"{path.name}, line {len(rows) + 2} or later, is no CSV: {error}") from None
    return columns, rows


def _with_labels(rows: list[Row], column: str) -> list[Row]:
    """The rows with their labels apart where there are several, and as numbers where all of them are."""
    texts = [row.fields[column] for row in rows]
    several = any("|" in text for text in texts)
    lists = [[part.strip() for part in text.split("|") if part.strip()] if several else [text] for text in texts]
    numbers = all(label.removeprefix("-").isdecimal() for labels in lists for label in labels if label)
    values: list[Any] = [[int(label) if numbers and label else label for label in labels] for labels in lists]
    return [
        Row(row.line, {**row.fields, column: labels if several else labels[0]})
        for row, labels in zip(rows, values, strict=True)
    ]
