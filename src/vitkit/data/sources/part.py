"""Data source `part:classes=0-4@digits`: a subset of another source, selected by class or number of images.

Settings precede the first at sign, separated by commas. `classes` selects classes by index or name, with ranges and
sums (`0-4+7`, `cat+dog`), and renumbers them from 0. `number` images per class, or a `fraction` of them, are then
sampled with `seed` (default 0) from the training split only; other splits stay complete:
`part:fraction=0.03@folder:images`.
`rest=1` selects all images except these, for evaluation where a source has no other split. `split=train` selects one
split as if there were no other. Subsets of one seed are nested: the smaller is a subset of the larger.
"""

from collections import Counter
from dataclasses import dataclass, fields, replace

import numpy as np

from vitkit.config import nearest, once
from vitkit.data import Relabelled, Source, Subset, splits


@dataclass(frozen=True)
class Part:
    """Settings of a subset. A setting that is None does not restrict the subset."""

    classes: str | None = None
    fraction: float | None = None
    number: int | None = None
    seed: int = 0
    rest: int = 0
    split: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError if a setting is invalid."""
        if self.fraction is not None and not 0.0 < self.fraction <= 1.0:
            raise ValueError(
                f"fraction of data source 'part' is {self.fraction}; expected a number above 0 and at most 1"
            )
        if self.number is not None and self.number < 1:
            raise ValueError(f"number of data source 'part' (images per class) is {self.number}; expected at least 1")
        if self.fraction is not None and self.number is not None:
            raise ValueError("data source 'part' accepts either fraction or number, not both")
        if self.rest and self.fraction is None and self.number is None:
            raise ValueError("rest=1 selects the images outside a sample; set the sample size with fraction or number")


def open_source(location: str) -> dict[str, Source]:
    """Opens a subset of a source and returns its splits. Raises ValueError if a setting or class is invalid."""
    text, at, name = location.partition("@")
    if not at or not name:
        raise ValueError(f"expected a source such as part:classes=0-4,fraction=0.1@SOURCE, got 'part:{location}'")
    part = read(text)
    found = splits(name, needs_labels=False)
    if part.split is not None:
        if part.split not in found:
            raise ValueError(f"'{name}' has no split '{part.split}'{nearest(part.split, found)}")
        found = {"all": found[part.split]}
    if part.classes is not None:
        found = {
            split: select_classes(each, class_indices(part.classes, each.classes)) for split, each in found.items()
        }
    return {split: sampled(each, part) if split in ("train", "all") else each for split, each in found.items()}


def read(text: str) -> Part:
    """Parses the settings of a subset, such as `classes=0-4,fraction=0.1`."""
    known = {field.name: field.type for field in fields(Part)}
    part = Part()
    pairs = [setting.partition("=") for setting in text.split(",")]
    once(((name, value) for name, _, value in pairs), f"the setting in 'part:{text}' of ")
    for setting in text.split(","):
        name, equals, value = setting.partition("=")
        if not equals or name not in known:
            raise ValueError(f"unknown setting '{setting}' of data source 'part'{nearest(name, known)}")
        try:
            kind = {"classes": str, "fraction": float, "split": str}.get(name, int)
            part = replace(part, **{name: kind(value)})
        except ValueError as error:
            raise ValueError(f"invalid setting '{setting}' of data source 'part': {error}") from None
    return part


def class_indices(text: str, classes: tuple[str, ...]) -> list[int]:
    """Parses class indices, ranges and names joined with `+`, such as `0-4+7`. Returns indices in the given order."""
    found: list[int] = []
    for word in text.split("+"):
        first, dash, last = word.partition("-")
        if first.isdecimal() and (last.isdecimal() or not dash):
            found += range(int(first), int(last or first) + 1)
        elif word in classes:
            found.append(classes.index(word))
        else:
            raise ValueError(f"data source 'part' selects the unknown class '{word}'{nearest(word, classes[:20])}")
    beyond = [each for each in found if each >= len(classes)]
    if beyond:
        raise ValueError(f"data source 'part' selects class {beyond[0]}, but the classes are 0 to {len(classes) - 1}")
    if len(set(found)) < len(found):
        repeated = Counter(found).most_common(1)[0][0]
        raise ValueError(f"classes={text} selects class {repeated} more than once; list each class once")
    return found


def select_classes(source: Source, chosen: list[int]) -> Source:
    """Returns the images whose labels are all in `chosen`, with classes renumbered from 0."""
    new_indices = {old: new for new, old in enumerate(chosen)}
    labels = [source.label(index) for index in range(len(source))]
    tuples = [(label,) if isinstance(label, int) else label for label in labels]
    selected = [index for index, each in enumerate(tuples) if each and all(label in new_indices for label in each)]
    if not selected:
        names = ", ".join(source.classes[each] for each in chosen)
        raise ValueError(f"no image has only labels of the selected classes: {names}")
    renumbered = tuple(new_indices.get(old, -1) for old in range(len(source.classes)))
    return Relabelled(Subset(source, np.array(selected)), tuple(source.classes[each] for each in chosen), renumbered)


def sampled(source: Source, part: Part) -> Source:
    """Returns a sample of the images of each class, or all images outside the sample if `part.rest` is set."""
    if part.fraction is None and part.number is None:
        return source
    labels = [source.label(index) for index in range(len(source))]
    first = np.array([label if isinstance(label, int) else min(label, default=-1) for label in labels])
    random = np.random.default_rng(part.seed)
    selected = []
    for label in np.unique(first):
        members = random.permutation(np.flatnonzero(first == label))
        count = part.number if part.number is not None else max(1, round((part.fraction or 1.0) * members.shape[0]))
        selected.append(members[count:] if part.rest else members[:count])
    if not sum(map(len, selected)):
        raise ValueError("rest=1 selects no images, because the sample contains all images; lower fraction or number")
    return Subset(source, np.sort(np.concatenate(selected)))
