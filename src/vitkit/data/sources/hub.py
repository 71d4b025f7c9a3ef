"""Data source `hub:uoft-cs/cifar10`: a dataset of the Hugging Face Hub, downloaded and cached by `datasets`.

A configuration follows a colon, a revision an at sign: `hub:owner/name:config@main`. Columns are found by their
features, or given: `hub:uoft-cs/cifar100#label=coarse_label`, or `#target=age` for regression targets. Code of a
dataset is never run.
"""

from pathlib import Path
from typing import Any

from vitkit.data import Source
from vitkit.data.sources import SPLITS, _columns
from vitkit.data.sources._columns import (
    choose_by_type,
    class_names,
    encode,
    feature_type,
    label_columns,
    parse,
)


class Table(_columns.Table):
    """One split of a Hub dataset. The key of an image is the split name with the row number.

    Raises ValueError that names the row of an invalid label.
    """

    def __init__(self, table: Any, name: str, chosen: dict[str, str]):
        from datasets import Image

        features = table.features.to_dict()
        image_columns = [column for column in table.column_names if feature_type(features[column]) == "Image"]
        classes = [column for column in table.column_names if class_names(features[column]) is not None]
        self.name = name
        self.image = choose_by_type("image", image_columns, table.column_names, chosen, f"the split '{name}'")
        labels, unlabelled = label_columns(table.column_names, chosen, f"the split '{name}'", classes)
        if self.image not in image_columns:
            raise ValueError(f"the column '{self.image}' of the split '{name}' contains no images")
        columns = [table.select_columns([label])[:][label] for label in labels] or [[None] * len(table)]
        values = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
        targets = "target" in chosen
        names = None if targets or not labels else class_names(features[labels[0]])
        unlabelled = unlabelled or f"{name}: no image has a label"
        super().__init__(
            encode(values, labels, names, lambda row: f"{name} row {row}", targets=targets, unlabelled=unlabelled)
        )
        # `datasets` does not decode: `vitkit.images` checks and decodes the bytes.
        self.images = table.select_columns([self.image]).cast_column(self.image, Image(decode=False))

    def encoded(self, index: int) -> tuple[bytes | Path, str]:
        """Returns the path or the bytes of an image file, and the key that names the image in messages."""
        value = self.images[index][self.image] or {}
        return value.get("bytes") or _cached(value.get("path")), self.key(index)

    def key(self, index: int) -> str:
        """Returns the split name with the row number, counted from 0."""
        return f"{self.name} row {index}"


def _cached(path: str | None) -> Path | bytes:
    """Returns the path if it is in the cache of `datasets`, otherwise b"", so that no other local file is read."""
    from datasets import config

    homes = (config.HF_CACHE_HOME, config.HF_DATASETS_CACHE)
    inside = path and any(Path(path).resolve().is_relative_to(Path(home).resolve()) for home in homes)
    return Path(path) if path and inside else b""


def open_source(location: str) -> dict[str, Source]:
    """Loads a dataset and returns its splits under the names train, val and test.

    Raises ValueError for an unknown dataset or a missing configuration, ImportError without `datasets`.
    """
    try:
        import datasets
    except ImportError:
        raise ImportError("data source 'hub' needs the package datasets: pip install 'vitkit[data]'") from None
    path, chosen = parse(location)
    path, _, revision = path.partition("@")
    name, _, config = path.partition(":")
    if not name:
        raise ValueError("the name of the dataset is missing; expected hub:OWNER/NAME")
    try:
        found = datasets.load_dataset(name, config or None, revision=revision or None)
    except (ValueError, OSError) as error:  # errors of the library and of its connections
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"the dataset '{name}' cannot be opened: {type(error).__name__}: {reason}") from None
    tables = {str(split): table for split, table in found.items()}
    return {SPLITS.get(split.lower(), split): Table(table, split, chosen) for split, table in tables.items()}
