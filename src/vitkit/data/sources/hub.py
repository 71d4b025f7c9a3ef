"""`hub:uoft-cs/cifar10`: a data set of the Hugging Face hub, through its own `datasets` library, kept in its cache.

A configuration stands behind a colon, a revision behind an at sign: `hub:owner/name:config@main`. Columns are found by
their features, or named: `hub:uoft-cs/cifar100#label=coarse_label`. No code of a data set is ever run.
"""

from functools import partial
from pathlib import Path
from typing import Any

from vitkit.data import EncodedSource, Label, Source
from vitkit.data.sources._columns import (
    SPLITS,
    choose_fitting,
    class_names,
    kind_of,
    labelled,
    number,
    parse,
    refuse_unlabelled,
)


class Table(EncodedSource):
    """One split of a data set, in its order; a key is the split's name and the number of the row.

    Raises ValueError that names the row for labels that are none.
    """

    def __init__(self, table: Any, name: str, chosen: dict[str, str]):
        from datasets import Image

        features = table.features.to_dict()
        pictures = [column for column in table.column_names if kind_of(features[column]) == "Image"]
        classes = [column for column in table.column_names if class_names(features[column]) is not None]
        self.name = name
        self.image = choose_fitting("image", pictures, table.column_names, chosen, f"the split '{name}'")
        label = choose_fitting("label", classes, table.column_names, chosen, f"the split '{name}'")
        if self.image not in pictures:
            raise ValueError(f"the split '{name}': the column '{self.image}' holds no pictures")
        values = table.select_columns([label])[:][label]
        refuse_unlabelled(values, name)
        self.classes, self.labels = number(values, class_names(features[label]), lambda row: f"{name} row {row}")
        # Undecoded: what a picture may be is for `images` to judge.
        self.pictures = table.select_columns([self.image]).cast_column(self.image, Image(decode=False))

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.labels)

    def encoded(self, index: int) -> tuple[bytes | Path, str]:
        """The file of a picture, or its bytes, and its key."""
        value = self.pictures[index][self.image] or {}
        return value.get("bytes") or _cached(value.get("path")), f"{self.name} row {index}"

    def label(self, index: int) -> Label:
        """The class number, or several."""
        return self.labels[index]


def _cached(path: str | None) -> Path | bytes:
    """A picture that `datasets` unpacked into its cache; nothing where a table names any other file of this machine."""
    from datasets import config

    homes = (config.HF_CACHE_HOME, config.HF_DATASETS_CACHE)
    inside = path and any(Path(path).resolve().is_relative_to(Path(home).resolve()) for home in homes)
    return Path(path) if path and inside else b""


def open_source(location: str) -> dict[str, Source]:
    """The splits of a data set, train, val and test by these names whatever it calls them; ImportError without
    `datasets`.

    Splits without any label are left out. Raises ValueError where there is no such data set, or it comes in
    configurations and none is named.
    """
    try:
        import datasets
    except ImportError:
        raise ImportError("the source 'hub' needs datasets: pip install 'vitkit[data]'") from None
    path, chosen = parse(location)
    path, _, revision = path.partition("@")
    name, _, config = path.partition(":")
    if not name:
        raise ValueError("a data set of the hub is written hub:OWNER/NAME")
    try:
        found = datasets.load_dataset(name, config or None, revision=revision or None)
    except (ValueError, OSError) as error:  # what the library and its connections raise
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"the data set '{name}' cannot be opened: {type(error).__name__}: {reason}") from None
    tables = {str(split): table for split, table in found.items()}
    return labelled(
        {SPLITS.get(split.lower(), split): partial(Table, table, split, chosen) for split, table in tables.items()}
    )
