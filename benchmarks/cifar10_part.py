"""Writes the first images of each split of CIFAR-10, as a small data set for a GPU machine.

    python benchmarks/cifar10_part.py CIFAR10_FOLDER .gpu-data/cifar10 [--train 15000] [--test 2000]

Reads and writes Parquet files in the format of Hugging Face (`train-*.parquet`, `test-*.parquet`; 1.8 KB an image).
"""

import argparse
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

ROW_GROUP = 500


def main() -> None:
    """Parses the command line and writes both files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--train", type=int, default=15000, help="training images")
    parser.add_argument("--test", type=int, default=2000, help="test images")
    options = parser.parse_args()
    for split in ("train", "test"):
        table = first_rows(options.source, split, getattr(options, split))
        options.target.mkdir(parents=True, exist_ok=True)
        file = options.target / f"{split}.parquet"
        parquet.write_table(table, file, row_group_size=ROW_GROUP)
        print(f"{table.num_rows} images in {file} ({file.stat().st_size / 2**20:.0f} MiB)")


def first_rows(folder: Path, split: str, count: int) -> pa.Table:
    """Returns the first `count` rows of a split; its files are shuffled already."""
    files = sorted(folder.glob(f"{split}*.parquet"))
    if not files:
        raise SystemExit(f"no {split}*.parquet in {folder}; expected the Parquet files of CIFAR-10")
    tables: list[pa.Table] = []
    for file in files:
        missing = count - sum(table.num_rows for table in tables)
        if missing > 0:
            tables.append(parquet.read_table(file).slice(0, missing))
    return pa.concat_tables(tables)


if __name__ == "__main__":
    main()
