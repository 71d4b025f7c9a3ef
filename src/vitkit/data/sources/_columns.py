"""Tables of pictures (CSV, JSON lines, Parquet, the hub): which columns are meant, and what their labels are."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitkit.config import nearest
from vitkit.data import Label, Source

#: What a column of pictures, of labels and of splits is called, the likeliest name first.
NAMES: dict[str, tuple[str, ...]] = {
    "image": ("image", "img", "path", "file", "file_name", "filename", "image_path", "filepath", "picture", "photo"),
    "label": ("label", "labels", "class", "classes", "fine_label", "category", "target", "cls"),
    "split": ("split",),
}
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation", "dev"), "val"
)


def parse(location: str) -> tuple[str, dict[str, str]]:
    """A location and the columns named behind it: `photos.csv#image=file,label=species`; ValueError for others."""
    path, mark, text = location.rpartition("#")
    if not mark or "=" not in text:
        return location, {}
    parts = [part.partition("=") for part in text.split(",")]
    chosen = {kind: column for kind, _, column in parts}
    for kind in chosen:
        if kind not in NAMES:
            raise ValueError(f"'#{text}' names no column of vitkit's: '{kind}'{nearest(kind, NAMES)}")
    return path, chosen


def choose(kind: str, columns: Iterable[str], chosen: Mapping[str, str], where: str) -> str:
    """The column that holds the images or the labels: the one named in the location, else the likeliest by its name."""
    columns = list(columns)
    if kind in chosen:
        if chosen[kind] not in columns:
            raise ValueError(f"{where} has no column '{chosen[kind]}'{nearest(chosen[kind], columns)}")
        return chosen[kind]
    lower = {name.lower(): name for name in columns}
    for name in NAMES[kind]:
        if name in lower:
            return lower[name]
    raise ValueError(
        f"{where} has no column that is called like {kind}s ({', '.join(NAMES[kind][:4])}, ...); it has "
        f"{', '.join(map(str, columns)) or 'none'}: name it with #{kind}=COLUMN behind the location"
    )


def choose_fitting(kind: str, fitting: list[str], columns: list[str], chosen: Mapping[str, str], where: str) -> str:
    """The one column that fits, or of several (or none) that with the likeliest name."""
    if kind in chosen or not fitting:
        return choose(kind, columns, chosen, where)
    if len(fitting) > 1 and not any(name.lower() in NAMES[kind] for name in fitting):
        raise ValueError(f"{where} has several columns of {kind}s, {', '.join(fitting)}: name one with #{kind}=COLUMN")
    return fitting[0] if len(fitting) == 1 else choose(kind, fitting, chosen, where)


def kind_of(feature: Any) -> Any:
    """The type of a feature as `datasets` writes it ("Image", "ClassLabel"), None for what is none."""
    return feature.get("_type") if isinstance(feature, dict) else None


def class_names(feature: Any) -> tuple[str, ...] | None:
    """The names of a ClassLabel, or of the ClassLabels of a list, in the three ways `datasets` has written it."""
    inner: Any = feature[0] if isinstance(feature, list) and feature else feature
    if kind_of(inner) in ("Sequence", "List", "LargeList"):
        inner = inner["feature"]
    names = inner.get("names") if kind_of(inner) == "ClassLabel" else None
    return tuple(map(str, names)) if isinstance(names, list) else None


def split_of(path: str) -> str | None:
    """The split that a file name or a folder of its path begins with: train-00000-of-00002.parquet, test/0.parquet."""
    for part in reversed(Path(path).parts):
        word = re.split(r"[^a-z]", part.lower())[0]
        if word in SPLITS:
            return SPLITS[word]
    return None


class Unlabelled(ValueError):  # noqa: N818 - a state, as KeyError's missing key is
    """No picture of a split has a label."""


def refuse_unlabelled(values: Sequence[Any], where: str) -> None:
    """Raises `Unlabelled` where all labels are missing or -1, as published test sets have them."""
    if values and all(value is None or value == -1 for value in values):
        raise Unlabelled(f"{where}: no picture has a label")


def labelled(splits: Mapping[str, Callable[[], Source]]) -> dict[str, Source]:
    """The splits opened, without those that hide their labels; ValueError where that leaves none."""
    found, hidden = {}, None
    for name, opened in splits.items():
        try:
            found[name] = opened()
        except Unlabelled as error:
            hidden = error
    if hidden is not None and not found:
        raise hidden
    return found


def number(
    values: Sequence[Any], names: tuple[str, ...] | None, row: Callable[[int], str]
) -> tuple[tuple[str, ...], list[Label]]:
    """The classes and every row's label, from numbers or names, or lists of them where a picture has several.

    Without `names` the classes are the names in order, or the numbers up to the highest. Raises ValueError that names
    the row (`row(index)`) for a label that is missing, of another kind, or not among the classes.
    """
    several = any(isinstance(value, list | tuple) for value in values)
    lists = [value if isinstance(value, list | tuple) else [value] for value in values]
    for index, labels in enumerate(lists):
        for label in labels:
            if not isinstance(label, int | str) or isinstance(label, bool) or label == "":
                given = "none" if label is None or label == "" else repr(label)[:40]
                raise ValueError(f"{row(index)}: the label is {given}; it is a class's number or name")
    if names is None:
        names = _names(lists, row)
    numbers = {name: place for place, name in enumerate(names)}
    found: list[Label] = []
    for index, labels in enumerate(lists):
        for label in labels:
            if isinstance(label, str) and label not in numbers:
                raise ValueError(f"{row(index)}: there is no class '{label[:40]}'{nearest(label, names[:20])}")
            if isinstance(label, int) and not 0 <= label < len(names):
                raise ValueError(f"{row(index)}: the label is {label}; there are {len(names)} classes, counted from 0")
        each = [numbers[label] if isinstance(label, str) else label for label in labels]
        found.append(tuple(sorted(set(each))) if several else each[0])
    return names, found


def _names(lists: Sequence[Sequence[int | str]], row: Callable[[int], str]) -> tuple[str, ...]:
    kinds = {type(label): index for index, labels in enumerate(lists) for label in labels}
    if len(kinds) > 1:
        raise ValueError(f"{row(min(kinds.values()))}: some labels are numbers and some are names")
    every = {label for labels in lists for label in labels}
    if kinds.keys() == {str}:
        return tuple(sorted(map(str, every)))
    highest = max((label for label in every if isinstance(label, int)), default=-1)
    if highest > 10_000_000:
        raise ValueError(f"the highest label is {highest}; labels are class numbers, counted from 0")
    return tuple(str(each) for each in range(highest + 1))
