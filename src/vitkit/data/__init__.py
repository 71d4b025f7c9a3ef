"""Datasets, image preprocessing, augmentation and data loading.

A data source is a file of `sources/` with a function `open_source(location) -> {split: Source}`, selected by its file
name: `digits`, `folder:images/`, `csv:images.csv`, `jsonl:images.jsonl`, `parquet:images/`, `webdataset:shards/`,
`list:images.txt`, `hub:owner/name`. It returns the published splits, or a single split named `all`. `part:` selects a
subset of another source, `vtab:` a task of VTAB-1k. To add a source, add one file.
`processor` is the evaluation preprocessing that is saved with the weights; `augment` and `loader` serve training.
"""

import inspect
import os
from pathlib import Path
from types import ModuleType

import numpy as np

from vitkit.config import nearest, parse_options
from vitkit.data._source import (
    EncodedSource,
    Example,
    Label,
    ReadOptions,
    Relabelled,
    Source,
    Subset,
    Unlabelled,
)
from vitkit.discovery import Component, PluginError
from vitkit.references import resolve
from vitkit.registry import Registry, namespace, options_class

__all__ = [
    "SOURCES",
    "SUFFIX_SOURCES",
    "EncodedSource",
    "Example",
    "Label",
    "ReadOptions",
    "Relabelled",
    "Source",
    "Subset",
    "Unlabelled",
    "canonical",
    "check_kind",
    "fitted",
    "named",
    "source",
    "source_names",
    "source_of",
    "splits",
    "stratified_split",
    "train_and_val",
]

# Data sources of files, by suffix.
SUFFIX_SOURCES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".parquet": "parquet",
    ".tar": "webdataset",
    ".txt": "list",
}


def fitted(source: Source, classes: tuple[str, ...], *, name: str, regression: bool = False) -> Source:
    """Returns the source with its labels mapped to `classes`. Raises ValueError for classes not in `classes`."""
    check_kind(source, regression=regression, name=name)
    if source.classes == classes:
        return source
    missing = [each for each in source.classes if each not in classes]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if missing[5:] else "")
        raise ValueError(f"'{name}' has classes that are not in the training data: {shown}")
    return Relabelled(source, classes)


def check_kind(source: Source, *, regression: bool, name: str) -> None:
    """Raises ValueError if a source has regression targets where classes are expected, or the reverse."""
    if source.regression != regression:
        kinds = {True: "regression targets", False: "classes"}
        raise ValueError(
            f"'{name}' has {kinds[source.regression]} ({', '.join(source.classes[:3])}), but {kinds[regression]} are "
            "expected; append #target=COLUMN or #label=COLUMN to the location"
        )


def _validate(module: ModuleType) -> None:
    """Raises PluginError unless `open_source` can be called with one argument."""
    try:
        inspect.signature(module.open_source).bind("")
    except TypeError:
        raise PluginError(f"open_source is {module.open_source!r}; expected open_source(location)") from None


def _adapt(component: Component) -> ModuleType:
    """Wraps a function or a subclass of `Source` as the module of a data source.

    The only parameter of the function or class is `location`, or its parameters are options: `shapes(*, number: int =
    100)` is opened as `shapes:number=5`.
    """
    target, form = component.target, "shapes(*, number: int = 100) with any options, or shapes(location)"
    if not callable(target):
        raise PluginError(f"'{component.name}' of {component.origin} is {target!r}; expected a function {form}")
    if isinstance(target, type) and inspect.isabstract(target):
        names = " and no ".join(sorted(target.__abstractmethods__))
        raise PluginError(f"the data source '{component.name}' of {component.origin} has no method {names}")
    if list(inspect.signature(target).parameters) == ["location"]:
        return namespace(component, open_source=lambda location: _as_splits(component.name, target(location)))
    options = options_class(component, 0, form, defaults=False)

    def open_source(location: str) -> dict[str, Source]:
        config = parse_options(options, location, component.name)
        return _as_splits(component.name, target(**vars(config)))

    return namespace(component, open_source=open_source)


def _as_splits(name: str, found: object) -> dict[str, Source]:
    """Returns the result of a data source as a dict of Sources by split. Raises PluginError for other types."""
    splits = {"all": found} if isinstance(found, Source) else found
    if not isinstance(splits, dict) or not all(isinstance(each, Source) for each in splits.values()):
        raise PluginError(
            f"the data source '{name}' returned {type(found).__name__}; expected a Source, or a dict of Sources by "
            "split: train and val, or all"
        )
    return splits


SOURCES = Registry(
    f"{__name__}.sources", "data source", {"open_source": "a function open_source(location) that returns Sources"},
    plugin_kind="source", adapt=_adapt, validate=_validate,
)  # fmt: skip


def source_names() -> list[str]:
    """Returns the names of all data sources: the public modules in `sources/`, and those of plug-ins."""
    return SOURCES.names()


def source_of(name: str | os.PathLike[str]) -> str:
    """Returns the name of the data source for a path, such as `folder:photos` for the folder `photos`.

    Other names are returned unchanged. The suffix of a file, or of a glob, selects the data source (`SUFFIX_SOURCES`).
    Columns may follow, as in `photos.csv#label=species`. A folder that contains only Parquet files is opened as
    `parquet`, and a folder that contains only tar shards as `webdataset`.
    """
    text = os.fspath(name)
    if not text or text.partition(":")[0] in SOURCES:
        return text
    location = text.partition("#")[0]
    path = Path(location).expanduser()
    kind = SUFFIX_SOURCES.get(path.suffix.lower())
    try:
        if path.is_dir():
            suffixes = {each.suffix.lower() if each.is_file() else "" for each in path.iterdir() if each.name[0] != "."}
            kinds = {SUFFIX_SOURCES.get(suffix) for suffix in suffixes - {".json", ".md", ".txt"}}
            (kind,) = kinds if kinds in ({"parquet"}, {"webdataset"}) else ("folder",)
        elif not (path.exists() or (kind and any(sign in location for sign in "*?[{"))):
            return text
    except (OSError, ValueError):
        return text
    return text if kind is None else f"{kind}:{path}{text[len(location) :]}"


def splits(name: str, *, needs_labels: bool = True) -> dict[str, Source]:
    """Opens a source and returns its splits by name. Examples: `splits("digits")`, `splits("folder:images/")`.

    A source in a plug-in file is written with its options as `./mine.py:shapes?number=5`. The file is loaded.

    The keys are the published splits, or `all`. Splits without labels are left out if labels are needed, or if the
    training images have labels. Raises ValueError for an unknown source, for an invalid location, and for a source
    without labels if labels are needed.
    """
    kind, location = named(source_of(name))
    try:
        module = SOURCES.get(kind)
    except PluginError:
        raise
    except ValueError:
        where = f" in '{name}'" if ":" in name else ", and there is no such file or folder"
        raise ValueError(f"unknown data source '{kind}'{where}{nearest(kind, source_names())}") from None
    found = _as_splits(kind, module.open_source(location))
    labelled = {split: each for split, each in found.items() if each.classes}
    if needs_labels and found and not labelled:
        reason = next(iter(found.values())).unlabelled
        raise ValueError(f"{reason}; to train without labels, choose a pre-training recipe (`vitkit recipes`)")
    # Test sets are published without labels. Training images without labels are used with all other images.
    return labelled if needs_labels or labelled.keys() & {"train", "all"} else found


def canonical(name: str) -> str:
    """Loads a data source in a file, such as `./mine.py:shapes?number=5`, and returns its name `shapes:number=5`.

    The source of a part (`part:number=5@./mine.py:shapes`) is converted in the same way. Other names are returned
    unchanged.
    """
    inner = name.rpartition("@")[2]
    return name.removesuffix(inner) + resolve("source", inner)


def named(name: str) -> tuple[str, str]:
    """Splits a name such as `folder:images/` into the name of the data source and the location."""
    kind, _, location = canonical(name).partition(":")
    kind, mark, query = kind.partition("?")
    return kind, query if mark else location


def source(name: str) -> Source:
    """Returns the only split of a source. Raises ValueError if the source has several splits."""
    found = splits(name)
    if list(found) != ["all"]:
        raise ValueError(f"'{name}' has several splits: {', '.join(found)}; choose one with part:split=SPLIT@SOURCE")
    return found["all"]


def train_and_val(
    name: str, *, val: str | None = None, held_out: float = 0.2, seed: int = 0, needs_labels: bool = True
) -> tuple[Source, Source]:
    """Returns the training set and the validation set of a source.

    The validation set is the source `val` if given, else the validation or test split of the source, else a stratified
    random split of `held_out` of the training images that depends only on `seed`; the split of a regression is random.
    Without `needs_labels` the images may have no labels; neither of the two has labels then, also if there is only one
    class. Raises ValueError if one of the two is missing or their classes differ.
    """
    found = splits(name, needs_labels=needs_labels)
    training = found.get("train") or found.get("all")
    if training is None:
        raise ValueError(f"'{name}' has no training split; its splits are {', '.join(found)}")
    if val is not None:
        others = splits(val, needs_labels=needs_labels)
        validation = others.get("val") or others.get("test") or others.get("all")
        if validation is None:
            raise ValueError(f"'{val}' has no validation or test split; its splits are {', '.join(others)}")
    elif "all" in found:
        train_indices, val_indices = stratified_split(training, held_out, seed)
        training, validation = Subset(training, train_indices), Subset(training, val_indices)
    else:
        validation = found.get("val") or found.get("test")
        if validation is None:
            raise ValueError(f"'{name}' has no validation or test split; its splits are {', '.join(found)}")
    if not needs_labels and not training.regression and not (len(training.classes) > 1 and validation.classes):
        reason = f"the images of '{name}' have fewer than two classes"
        return Unlabelled(training, reason), Unlabelled(validation, reason)
    return training, fitted(validation, training.classes, name=val or name, regression=training.regression)


def stratified_split(source: Source, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits the images of each class at random. Returns sorted training and validation indices.

    The validation set gets `fraction` of each class, at least one image. Images with several labels count with their
    first. Raises ValueError for a fraction outside (0, 1) and for a class with a single image.
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"the validation fraction is {fraction}; it must be between 0 and 1")
    labels = [source.label(index) for index in range(len(source))]
    first = np.array([label if isinstance(label, int) else min(label, default=-1) for label in labels])
    random = np.random.default_rng(seed)
    is_val = np.zeros(first.shape[0], dtype=bool)
    for label in np.unique(first):
        members = random.permutation(np.flatnonzero(first == label))
        if members.shape[0] < 2:
            name = source.classes[label] if label >= 0 else "no label"
            raise ValueError(f"the class '{name}' has only one image; training and validation need at least one each")
        is_val[members[: max(1, round(fraction * members.shape[0]))]] = True
    return np.flatnonzero(~is_val), np.flatnonzero(is_val)
