"""Class names of ImageNet-1k and ImageNet-21k, and the matching of dataset classes to model labels."""

import gzip
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from vitkit.data import Relabelled, Source, check_kind

# Subsets of ImageNet-21k by their number of classes, as bits of a column in imagenet21k.tsv.gz (see imagenet21k.md).
SUBSETS = {21843: 0, 21841: 1, 11821: 2, 11221: 4, 10450: 8}
PLACEHOLDER = re.compile(r"(class |target |LABEL_)\d+")  # labels of a checkpoint without class names


@cache
def imagenet1k() -> tuple[str, ...]:
    """Returns the 1000 class names in index order. A name lists all lemmas of a synset, as in "tench, Tinca tinca"."""
    return tuple(name for _, name in _rows())


@cache
def imagenet1k_synsets() -> tuple[str, ...]:
    """Returns the 1000 WordNet ids ("n01440764") in index order. ImageNet's class folders have these names."""
    return tuple(synset for synset, _ in _rows())


@cache
def imagenet21k(num_classes: int = 21843) -> tuple[str, ...]:
    """Returns the class names of ImageNet-21k or one of its subsets in index order, with all lemmas of a synset.

    All are in the order of their WordNet ids: Google's 21843 classes; the 21841 of fall11.tar, without the two that
    only Google has (timm's 22k, BEiT's heads); timm's 12k (11821); ImageNet-21K-P of fall11 (11221) and of winter21
    (10450). The heads of Swin and FocalNet (21841 and 21842) have another order, which their size does not tell.
    """
    return tuple(name for _, name in _rows21k(num_classes))


@cache
def imagenet21k_synsets(num_classes: int = 21843) -> tuple[str, ...]:
    """Returns the WordNet ids of `imagenet21k(num_classes)`."""
    return tuple(synset for synset, _ in _rows21k(num_classes))


def default_labels(num_classes: int, *, regression: bool = False) -> tuple[str, ...]:
    """Returns ImageNet's class names if their number matches, otherwise names such as "class 0" or "target 0"."""
    if regression:
        return tuple(f"target {index}" for index in range(num_classes))
    if num_classes == 1000:
        return imagenet1k()
    if num_classes in SUBSETS:
        return imagenet21k(num_classes)
    return tuple(f"class {index}" for index in range(num_classes))


def _rows() -> list[list[str]]:
    text = files("vitkit.data").joinpath("imagenet1k.tsv").read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines()]


def _rows21k(num_classes: int) -> list[tuple[str, str]]:
    data = files("vitkit.data").joinpath("imagenet21k.tsv.gz").read_bytes()
    rows = (line.split("\t") for line in gzip.decompress(data).decode().splitlines())
    subset = SUBSETS[num_classes]
    return [(synset, name) for synset, subsets, name in rows if not subset or int(subsets, 16) & subset]


def matched(source: Source, labels: tuple[str, ...], *, name: str, regression: bool = False) -> Source:
    """Returns the source with its classes mapped to model labels. Raises ValueError if a class has no match."""
    check_kind(source, regression=regression, name=name)
    if source.classes == labels:
        return source
    return Relabelled(source, labels, class_indices(source.classes, labels, name=name))


def class_indices(classes: Sequence[str], labels: tuple[str, ...], *, name: str) -> tuple[int, ...]:
    """Returns the index of each dataset class among the labels of a model.

    A class matches a label if both are equal; if they differ only in case, `_` and `-`; if the class is one of the
    names in the label ("tench" in "tench, Tinca tinca"); or, for ImageNet labels, if it is the WordNet id
    ("n01440764"). For a model without class names, classes are taken in order if their number is the same. Raises
    ValueError for a class that matches no label or several, and for two classes that match the same label.
    """
    if (
        len(classes) == len(labels)
        and all(PLACEHOLDER.fullmatch(label) for label in labels)
        and classes[0] not in labels
    ):
        return tuple(range(len(labels)))
    tables = _tables(labels)
    found = [
        next((table[key] for table, key in zip(tables, _keys(each), strict=True) if key in table), [])
        for each in classes
    ]
    missing = [each for each, indices in zip(classes, found, strict=True) if not indices]
    if missing:
        raise ValueError(
            f"'{name}' has {len(classes)} classes ({_listing(classes)}) and the model has {len(labels)} labels "
            f"({_listing(labels)}), but no label matches {_listing(missing)}"
        )
    ambiguous = [(each, indices) for each, indices in zip(classes, found, strict=True) if len(indices) > 1]
    if ambiguous:
        each, indices = ambiguous[0]
        raise ValueError(
            f"the class '{each}' of '{name}' matches several labels of the model: {', '.join(map(str, indices))}; "
            "rename the class"
        )
    result = tuple(indices[0] for indices in found)
    if len(set(result)) < len(result):
        repeated = next(index for index in result if result.count(index) > 1)
        same = [each for each, index in zip(classes, result, strict=True) if index == repeated]
        raise ValueError(
            f"the classes {_listing(same)} of '{name}' match the same label of the model, '{labels[repeated]}'; "
            "rename them"
        )
    return result


def _tables(labels: tuple[str, ...]) -> list[dict[str, list[int]]]:
    exact, plain, names = defaultdict(list), defaultdict(list), defaultdict(list)
    for index, label in enumerate(labels):
        exact[label].append(index)
        plain[_plain(label)].append(index)
        for part in label.split(","):
            names[_plain(part)].append(index)
    synsets = {synset: [index] for index, synset in enumerate(_synsets(labels))}
    return [exact, synsets, plain, names]


def _keys(name: str) -> list[str]:
    return [name, name, _plain(name), _plain(name)]


def _synsets(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the WordNet ids if more than 90% of the labels are ImageNet's class names, otherwise ()."""
    number = len(labels)
    if number != 1000 and number not in SUBSETS:
        return ()
    same = sum(map(str.__eq__, labels, default_labels(number)))
    if same <= 0.9 * number:
        return ()
    return imagenet1k_synsets() if number == 1000 else imagenet21k_synsets(number)


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.strip().lower()))


def _listing(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(name.partition(",")[0] for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
