"""Data: one file a source of labelled pictures (digits, folder, ...), and what stands between a source and a model.

A source is a file with a function `open_source(location) -> {split: Source}`, found by its file name: `digits`,
`folder:photos/`, `csv:photos.csv`, `jsonl:photos.jsonl`, `parquet:photos/`, `webdataset:shards/`, `hub:owner/name`. It
names the splits it was published with, or gives one split, `all`. `part:` is a part of another source, `vtab:` a task
of VTAB-1k. Adding a source is one file.
`processor` is the evaluation preprocessing that travels with the weights; `augment` with its parts (`crop`,
`randaugment`, `photometric`, `erasing`, `mixing`), `presets` and `loader` serve training.
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
from PIL import Image

from vitkit.config import nearest
from vitkit.images import ImageError, Profile, open_image

Label = int | tuple[int, ...]
SOURCES = Path(__file__).parent / "sources"


class Opening(TypedDict, total=False):
    """How picture files are opened: a model's processor says what its weights have seen (`Processor`)."""

    profile: Profile
    background: tuple[int, int, int]


@dataclass(frozen=True)
class Example:
    """One labelled picture: `image` upright, of mode RGB, any size; `label` a class or several; `key` its name in
    messages.
    """

    image: Image.Image
    label: Label
    key: str


class Source(ABC):
    """Labelled pictures by number: 0 to `len(source) - 1`, in an order that is the same on every machine and every run.

    `classes` are the names that labels count. Reading must be safe from several processes at once.
    """

    classes: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int:
        """How many pictures there are."""

    @abstractmethod
    def read(self, index: int, **opening: Unpack[Opening]) -> Example:
        """The picture with its label; `ImageError` where it cannot be decoded. `opening` is for `images.open_image`."""

    @abstractmethod
    def label(self, index: int) -> Label:
        """The label alone, without reading the picture."""


class EncodedSource(Source):
    """A source of picture files: it says where each lies, and all are opened in one way."""

    @abstractmethod
    def encoded(self, index: int) -> tuple[bytes | Path, str]:
        """The file of a picture, or its bytes, and its key."""

    def read(self, index: int, **opening: Unpack[Opening]) -> Example:
        """The picture, decoded; `ImageError` that names it where that fails."""
        data, key = self.encoded(index)
        try:
            image = open_image(data, **opening)
        except ImageError as error:
            raise ImageError(error.code, f"{key}: {error}") from None
        return Example(image=image, label=self.label(index), key=key)


class Subset(Source):
    """Some pictures of another source, in the order given."""

    def __init__(self, source: Source, indices: np.ndarray):
        self.source = source
        self.indices = indices
        self.classes = source.classes

    def __len__(self) -> int:
        """How many pictures there are."""
        return int(self.indices.shape[0])

    def read(self, index: int, **opening: Unpack[Opening]) -> Example:
        """As the source reads it."""
        return self.source.read(int(self.indices[index]), **opening)

    def label(self, index: int) -> Label:
        """As the source gives it."""
        return self.source.label(int(self.indices[index]))


class Relabelled(Source):
    """Another source with its labels counted by other classes, of which it need not have all.

    `numbers` are those of the source's classes among the new ones; by name if not given.
    """

    def __init__(self, source: Source, classes: tuple[str, ...], numbers: tuple[int, ...] | None = None):
        self.source = source
        self.classes = classes
        self.numbers = tuple(map(classes.index, source.classes)) if numbers is None else numbers

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.source)

    def read(self, index: int, **opening: Unpack[Opening]) -> Example:
        """As the source reads it, the label renumbered."""
        return replace(self.source.read(index, **opening), label=self.label(index))

    def label(self, index: int) -> Label:
        """The number among the new classes."""
        label = self.source.label(index)
        return self.numbers[label] if isinstance(label, int) else tuple(self.numbers[each] for each in label)


def fitted(source: Source, classes: tuple[str, ...], *, name: str) -> Source:
    """The source with its labels counted by `classes`; ValueError that names the classes it has beyond them."""
    if source.classes == classes:
        return source
    lacking = [each for each in source.classes if each not in classes]
    if lacking:
        shown = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if lacking[5:] else "")
        raise ValueError(f"'{name}' is judged on classes that training lacks: {shown}")
    return Relabelled(source, classes)


def source_names() -> list[str]:
    """The names of the sources: the files of this folder that can open one."""
    return sorted(module.name for module in pkgutil.iter_modules([str(SOURCES)]) if module.name[0] != "_")


def splits(name: str) -> dict[str, Source]:
    """What a source holds, by split: `splits("digits")`, `splits("folder:photos/")`; the source's own, or `all`.

    Raises ValueError for an unknown kind of source and whatever the source finds wrong with the location.
    """
    kind, _, location = name.partition(":")
    if kind not in source_names():
        raise ValueError(f"unknown data source '{kind}' in '{name}'{nearest(kind, source_names())}")
    found: dict[str, Source] = importlib.import_module(f"{__name__}.sources.{kind}").open_source(location)
    return found


def source(name: str) -> Source:
    """Everything that a source of one split holds; ValueError where it comes in several."""
    found = splits(name)
    if list(found) != ["all"]:
        raise ValueError(f"'{name}' comes in splits: {', '.join(found)}; name one")
    return found["all"]


def train_and_val(name: str, *, val: str | None = None, held_out: float = 0.2, seed: int = 0) -> tuple[Source, Source]:
    """What to train on and what to evaluate on: the source `val`, else the source's own split, else a share held out.

    The share is stratified and depends on `seed` alone. Raises ValueError where the two do not fit together.
    """
    found = splits(name)
    training = found.get("train") or found.get("all")
    if training is None:
        raise ValueError(f"'{name}' has nothing to train on; it has the splits {', '.join(found)}")
    if val is not None:
        others = splits(val)
        validation = others.get("val") or others.get("test") or others.get("all")
        if validation is None:
            raise ValueError(f"'{val}' has nothing to evaluate on; it has the splits {', '.join(others)}")
    elif "all" in found:
        kept, held = stratified_split(training, held_out, seed)
        return Subset(training, kept), Subset(training, held)
    else:
        validation = found.get("val") or found.get("test")
        if validation is None:
            raise ValueError(f"'{name}' has nothing to evaluate on; it has the splits {', '.join(found)}")
    return training, fitted(validation, training.classes, name=val or name)


def stratified_split(source: Source, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the pictures kept and of those held out, ascending: `share` of every class, at least one of each.

    Pictures with several labels count with their first. Raises ValueError for a share outside 0..1 and for a class of
    a single picture, which cannot be in both.
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"the held-out share is {share}; it must lie between 0 and 1")
    labels = [source.label(index) for index in range(len(source))]
    first = np.array([label if isinstance(label, int) else min(label, default=-1) for label in labels])
    random = np.random.default_rng(seed)
    held = np.zeros(first.shape[0], dtype=bool)
    for label in np.unique(first):
        members = random.permutation(np.flatnonzero(first == label))
        if members.shape[0] < 2:
            name = source.classes[label] if label >= 0 else "no label"
            raise ValueError(f"the class '{name}' has a single picture: it cannot be both trained on and held out")
        held[members[: max(1, round(share * members.shape[0]))]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)
