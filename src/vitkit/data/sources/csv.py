"""Data source `csv:images.csv`: a table of images and labels. The first line names the columns, such as `path,label`.

Paths are relative to the file. Columns are found by name, or given: `csv:images.csv#image=file,label=species`. A label
is a class name or index; several labels are separated by `|`, as in `cat|dog`. Numbers with a decimal point are targets
of a regression; `csv:images.csv#target=age` takes any numbers as targets, also several columns
(`#target=x,target=y`). An optional column `split` contains train, val or test. Without a label column the images have
no labels.
"""

import csv
import re
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from vitkit.data import Source
from vitkit.data.sources import listed_file
from vitkit.data.sources._columns import label_columns, parse
from vitkit.data.sources._listing import Row, listing_splits
from vitkit.regular import open_regular

# A number with a decimal point or an exponent; text such as "nan" is a class name.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def open_source(location: str) -> dict[str, Source]:
    """Opens a CSV file and returns its splits. Raises ValueError with the line number of an error."""
    name, chosen = parse(location)
    path = listed_file(name, "csv")
    columns, rows = read_rows(path)
    for column in label_columns(columns, chosen, path.name)[0]:
        rows = _with_labels(rows, column, targets="target" in chosen)
    return listing_splits(path, rows, columns, chosen)


def read_rows(path: Path, *, strip: bool = True) -> tuple[list[str], list[Row]]:
    """Reads the column names and the rows of a CSV file. With `strip`, spaces around the values are removed.

    The separator is a comma, or a semicolon or tab if the header has no comma. Raises ValueError with the line number.
    """
    rows = []
    with TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
        try:
            header = file.readline()
            file.seek(0)
            delimiter = next((each for each in ",;\t" if each in header), ",")
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            columns = [name.strip() for name in next(reader, [])]
            for cells in reader:
                if cells and len(cells) != len(columns):
                    raise ValueError(
                        f"{path.name}, line {reader.line_num}: {len(cells)} values, "
                        f"but the header has {len(columns)} columns"
                    )
                if cells:
                    rows.append(
                        Row(reader.line_num, dict(zip(columns, map(str.strip, cells) if strip else cells, strict=True)))
                    )
        except UnicodeDecodeError:
            raise ValueError(f"{path.name} is not UTF-8 text; save it as UTF-8") from None
        except csv.Error as error:
            raise ValueError(f"{path.name}, line {len(rows) + 2} or later, is not valid CSV: {error}") from None
    return columns, rows


def _with_labels(rows: list[Row], column: str, *, targets: bool) -> list[Row]:
    """Splits labels at `|`. If all labels are numbers, converts them to integers or, if necessary, to floats.

    Of `targets`, every number is converted, so that errors name the others.
    """
    texts = [row.fields[column] for row in rows]
    several = any("|" in text for text in texts)
    lists = [[part.strip() for part in text.split("|") if part.strip()] if several else [text] for text in texts]
    given = [label for labels in lists for label in labels if label]
    integers = all(label.removeprefix("-").isdecimal() for label in given)
    number = int if integers else float if targets or all(NUMBER.fullmatch(label) for label in given) else str
    values: list[Any] = [
        [number(label) if number is str or NUMBER.fullmatch(label) else label for label in labels] for labels in lists
    ]
    return [
        Row(row.line, {**row.fields, column: labels if several else labels[0]})
        for row, labels in zip(rows, values, strict=True)
    ]
