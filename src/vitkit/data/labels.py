"""Class names that checkpoints leave out: those of ImageNet-1k, which every 1000-class file of the field means."""

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from vitkit.data import Relabelled, Source

NAMELESS = re.compile(r"(class |LABEL_)\d+")  # what a checkpoint without names calls its classes


@cache
def imagenet1k() -> tuple[str, ...]:
    """The 1000 class names in index order, all lemmas of the WordNet synset: "tench, Tinca tinca"."""
    return tuple(name for _, name in _rows())


@cache
def imagenet1k_synsets() -> tuple[str, ...]:
    """The 1000 WordNet ids in index order ("n01440764"), which ImageNet's folders and file names carry."""
    return tuple(synset for synset, _ in _rows())


def default_labels(num_classes: int) -> tuple[str, ...]:
    """Names for a checkpoint that has none: ImageNet-1k's for 1000 classes, else "class 0", "class 1", ..."""
    if num_classes == 1000:
        return imagenet1k()
    return tuple(f"class {index}" for index in range(num_classes))


def _rows() -> list[list[str]]:
    text = files(__package__).joinpath("imagenet1k.tsv").read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines()]


def matched(source: Source, labels: tuple[str, ...], *, name: str) -> Source:
    """The source with its labels counted by the model's; ValueError that says both where a class is not the model's."""
    if source.classes == labels:
        return source
    return Relabelled(source, labels, numbers_of(source.classes, labels, name=name))


def numbers_of(classes: Sequence[str], labels: tuple[str, ...], *, name: str) -> tuple[int, ...]:
    """The number of each class among a model's labels.

    A class is its label to the letter; or but for case, `_` and `-`; or one of the names a label lists ("tench" of
    "tench, Tinca tinca"); or, where the labels are ImageNet-1k's, a WordNet id ("n01440764"). A model without names
    takes as many classes as it has in their order. Raises ValueError for a class that is no label, that fits several,
    or for two that are the same.
    """
    if len(classes) == len(labels) and all(NAMELESS.fullmatch(label) for label in labels) and classes[0] not in labels:
        return tuple(range(len(labels)))
    tables = _tables(labels)
    found = [
        next((table[key] for table, key in zip(tables, _keys(each), strict=True) if key in table), [])
        for each in classes
    ]
    lacking = [each for each, numbers in zip(classes, found, strict=True) if not numbers]
    if lacking:
        raise ValueError(
            f"'{name}' has {len(classes)} classes ({_some(classes)}), the model {len(labels)} ({_some(labels)}): "
            f"{_some(lacking)} {'is' if len(lacking) == 1 else 'are'} not among the model's"
        )
    several = [(each, numbers) for each, numbers in zip(classes, found, strict=True) if len(numbers) > 1]
    if several:
        each, numbers = several[0]
        raise ValueError(f"the class '{each}' of '{name}' may be the model's {', '.join(map(str, numbers))}: rename it")
    result = tuple(numbers[0] for numbers in found)
    if len(set(result)) < len(result):
        again = next(number for number in result if result.count(number) > 1)
        same = [each for each, number in zip(classes, result, strict=True) if number == again]
        raise ValueError(f"the classes {_some(same)} of '{name}' are one class of the model, '{labels[again]}'")
    return result


def _tables(labels: tuple[str, ...]) -> list[dict[str, list[int]]]:
    exact, plain, listed = defaultdict(list), defaultdict(list), defaultdict(list)
    for number, label in enumerate(labels):
        exact[label].append(number)
        plain[_plain(label)].append(number)
        for part in label.split(","):
            listed[_plain(part)].append(number)
    synsets = {synset: [number] for number, synset in enumerate(imagenet1k_synsets())} if _is_imagenet(labels) else {}
    return [exact, synsets, plain, listed]


def _keys(name: str) -> list[str]:
    return [name, name, _plain(name), _plain(name)]


def _is_imagenet(labels: tuple[str, ...]) -> bool:
    """Whether these are ImageNet-1k's; some checkpoints write a name or two in their own way."""
    known = imagenet1k()
    return len(labels) == len(known) and sum(map(str.__eq__, labels, known)) > 0.9 * len(known)


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.strip().lower()))


def _some(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(name.partition(",")[0] for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
