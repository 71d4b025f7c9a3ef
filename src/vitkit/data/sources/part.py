"""`part:classes=0-4@digits`: a part of another source, for studies of how much data or which classes a model saw.

What is kept stands before the first at sign, comma by comma: `classes` by number or name, in ranges and sums (`0-4+7`,
`cat+dog`), counted anew from 0; then `number` of pictures a class or a `share` of them, drawn by `seed` (0 if not
given) from the training split alone, so that what is judged on stays whole: `part:share=0.03@parquet:/data/imagenet`.
With `rest=1` it is all but these pictures, to judge on where a source has no split of its own, and `split=train` is one
split as if there were no other. Shares of one seed are nested: the smaller is inside the larger.
"""

from dataclasses import dataclass, fields, replace

import numpy as np

from vitkit.config import nearest
from vitkit.data import Relabelled, Source, Subset, splits


@dataclass(frozen=True)
class Part:
    """What is kept of a source; None is everything."""

    classes: str | None = None
    share: float | None = None
    number: int | None = None
    seed: int = 0
    rest: int = 0
    split: str | None = None

    def __post_init__(self) -> None:
        """Refuses what would leave nothing."""
        if self.share is not None and not 0.0 < self.share <= 1.0:
            raise ValueError(f"the share of a part is {self.share}; it is above 0 and at most 1")
        if self.number is not None and self.number < 1:
            raise ValueError(f"the number of pictures a class is {self.number}; it is at least 1")
        if self.share is not None and self.number is not None:
            raise ValueError("a part has a share or a number of pictures a class, not both")
        if self.rest and self.share is None and self.number is None:
            raise ValueError("the rest of a part is what a share or a number of pictures a class leaves: give one")


def open_source(location: str) -> dict[str, Source]:
    """The splits of the other source, cut down; ValueError for words that mean nothing and classes it does not have."""
    text, at, name = location.partition("@")
    if not at or not name:
        raise ValueError(f"a part is written part:classes=0-4,share=0.1@SOURCE, not 'part:{location}'")
    part = read(text)
    found = splits(name)
    if part.split is not None:
        if part.split not in found:
            raise ValueError(f"'{name}' has no split '{part.split}'{nearest(part.split, found)}")
        found = {"all": found[part.split]}
    if part.classes is not None:
        found = {split: of_classes(each, numbers(part.classes, each.classes)) for split, each in found.items()}
    return {split: drawn(each, part) if split in ("train", "all") else each for split, each in found.items()}


def read(text: str) -> Part:
    """The part that words like `classes=0-4,share=0.1` mean."""
    known = {field.name: field.type for field in fields(Part)}
    part = Part()
    for word in text.split(","):
        name, equals, value = word.partition("=")
        if not equals or name not in known:
            raise ValueError(f"'{word}' says nothing of a part{nearest(name, known)}")
        try:
            kind = {"classes": str, "share": float, "split": str}.get(name, int)
            part = replace(part, **{name: kind(value)})
        except ValueError as error:
            raise ValueError(f"'{word}' of a part: {error}") from None
    return part


def numbers(text: str, classes: tuple[str, ...]) -> list[int]:
    """The class numbers that a sum of numbers, ranges and names means, in its order."""
    found: list[int] = []
    for word in text.split("+"):
        first, dash, last = word.partition("-")
        if first.isdecimal() and (last.isdecimal() or not dash):
            found += range(int(first), int(last or first) + 1)
        elif word in classes:
            found.append(classes.index(word))
        else:
            raise ValueError(f"there is no class '{word}' to take a part of{nearest(word, classes[:20])}")
    beyond = [each for each in found if each >= len(classes)]
    if beyond:
        raise ValueError(f"there is no class {beyond[0]} to take a part of; there are {len(classes)}, counted from 0")
    if len(set(found)) < len(found):
        raise ValueError(f"'{text}' names a class twice")
    return found


def of_classes(source: Source, chosen: list[int]) -> Source:
    """The pictures whose classes are all among those chosen, their labels counted anew; ValueError where none is."""
    places = {number: place for place, number in enumerate(chosen)}
    labels = [source.label(index) for index in range(len(source))]
    tuples = [(label,) if isinstance(label, int) else label for label in labels]
    kept = [index for index, each in enumerate(tuples) if each and all(label in places for label in each)]
    if not kept:
        raise ValueError(f"no picture is of the classes {', '.join(source.classes[each] for each in chosen)}")
    renumbered = tuple(places.get(number, -1) for number in range(len(source.classes)))
    return Relabelled(Subset(source, np.array(kept)), tuple(source.classes[each] for each in chosen), renumbered)


def drawn(source: Source, part: Part) -> Source:
    """So many pictures of every class, at least one, or all but these, in the source's order."""
    if part.share is None and part.number is None:
        return source
    labels = [source.label(index) for index in range(len(source))]
    first = np.array([label if isinstance(label, int) else min(label, default=-1) for label in labels])
    random = np.random.default_rng(part.seed)
    kept = []
    for label in np.unique(first):
        members = random.permutation(np.flatnonzero(first == label))
        count = part.number if part.number is not None else max(1, round((part.share or 1.0) * members.shape[0]))
        kept.append(members[count:] if part.rest else members[:count])
    if not sum(map(len, kept)):
        raise ValueError("a part takes every picture of its source, and leaves none to judge on")
    return Subset(source, np.sort(np.concatenate(kept)))
