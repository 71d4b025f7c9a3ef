"""Contract checks of data sources. Each check takes a name, such as `digits` or `shapes:n=5`."""

from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler

import numpy as np

from vitkit.data import EncodedSource, Example, Source, splits
from vitkit.data.augment import Transform
from vitkit.data.loader import evaluation_batches
from vitkit.data.processor import Processor
from vitkit.data.sources import SPLIT_NAMES
from vitkit.plugins.contracts import expect

MOST = 20


def opened(name: str) -> dict[str, Source]:
    """Returns the splits of a source by name. Splits without labels are included."""
    return splits(name, needs_labels=False)


def examples(name: str) -> Iterator[tuple[str, Source, int]]:
    """Yields evenly spaced indices of each split, as (split, source, index)."""
    for split, source in opened(name).items():
        for index in range(0, len(source), max(1, len(source) // MOST)):
            yield split, source, index


def it_opens_with_known_splits(name: str) -> None:
    """Checks the names of the splits, and that no split is empty."""
    found = opened(name)
    known = (*SPLIT_NAMES, "all")
    expect(found, "open_source returned no split; expected {'all': source}, or train and val")
    for split, source in found.items():
        expect(split in known, f"there is a split '{split}'; expected {', '.join(known)}")
        expect(len(source) > 0, f"the split '{split}' has no images")
    expect("all" not in found or len(found) == 1, f"the splits are {', '.join(found)}; 'all' excludes other splits")


def the_classes_are_names(name: str) -> None:
    """Checks that `classes` has unique names, or is empty and `unlabelled` gives the reason."""
    for split, source in opened(name).items():
        names = getattr(source, "classes", None)
        valid = isinstance(names, tuple) and all(isinstance(each, str) for each in names)
        expect(valid, f"classes of the split '{split}' is {names!r}; expected a tuple of strings")
        expect(len(set(source.classes)) == len(source.classes), f"classes of the split '{split}' repeats a name")
        expect(
            source.classes or source.unlabelled,
            f"the split '{split}' has no classes; set `unlabelled` to what labels would need",
        )


def labels_are_class_indices(name: str) -> None:
    """Checks `label` and, for a regression, `targets`."""
    for split, source, index in examples(name):
        label = source.label(index)
        numbers = label if isinstance(label, tuple) else (label,)
        right = all(type(each) is int and -1 <= each < max(len(source.classes), 0) for each in numbers)
        expect(
            right,
            f"label({index}) of the split '{split}' is {label!r}; expected an int from 0 to "
            f"{len(source.classes) - 1}, -1 for no label, or a tuple of them",
        )
        if source.regression:
            values = source.targets(index)
            right = isinstance(values, tuple) and len(values) == len(source.classes)
            expect(right, f"targets({index}) is {values!r}; expected one number for each of {source.classes}")


def reading_returns_the_image_with_its_label(name: str) -> None:
    """Checks that `read` returns an `Example` with an RGB image, the label of `label` and a unique key."""
    options = Transform(Processor.squash(16)).read_options
    keys: dict[tuple[str, str], int] = {}
    for split, source, index in examples(name):
        example = source.read(index, **options)
        expect(
            isinstance(example, Example),
            f"read({index}) returned {type(example).__name__}; expected a "
            "vitkit.data.Example(image=..., label=..., key=...)",
        )
        mode = getattr(example.image, "mode", None)
        expect(
            mode == "RGB",
            f'the image of read({index}) has the mode {mode!r}; expected an RGB image of PIL: image.convert("RGB")',
        )
        expect(
            example.label == source.label(index),
            f"read({index}) has the label {example.label!r}, but label({index}) is {source.label(index)!r}",
        )
        expect(
            isinstance(example.key, str) and example.key,
            f"the key of read({index}) is {example.key!r}; expected a name for messages, such as a file name",
        )
        key = source.key(index)
        expect(
            key == example.key,
            f"key({index}) is {key!r}, but the key of read({index}) is {example.key!r}; corrections find images by it",
        )
        other = keys.setdefault((split, example.key), index)
        expect(other == index, f"images {other} and {index} of the split '{split}' have the same key '{example.key}'")


def reading_twice_returns_the_same_image(name: str) -> None:
    """Checks that an image depends only on its index, so that a run can resume."""
    options = Transform(Processor.squash(16)).read_options
    for _, source, index in examples(name):
        one, other = (np.asarray(source.read(index, **options).image) for _ in range(2))
        expect(
            np.array_equal(one, other),
            f"read({index}) returned two different images; use a random generator with the seed (seed, index), if any",
        )
        break
    first, second = opened(name), opened(name)
    same = {split: len(source) for split, source in first.items()} == {s: len(each) for s, each in second.items()}
    expect(same, "opening the source twice gave other splits or numbers of images")


def worker_processes_can_read_it(name: str) -> None:
    """Checks that the source can be pickled for worker processes, as with `hardware.workers=2`."""
    for split, source in opened(name).items():
        try:
            ForkingPickler.dumps(source)
        except Exception as error:
            expect(
                False,
                f"the split '{split}' cannot be sent to worker processes ({error}); open files in `read`, and "
                "use no lambdas or local classes",
            )


def batches_can_be_loaded(name: str) -> None:
    """Checks that the loader makes a batch of the first images."""
    for source in opened(name).values():
        batch = next(evaluation_batches(source, Transform(Processor.squash(16)), batch_size=4))
        expected = (min(4, len(source)), 3, 16, 16)
        expect(
            tuple(batch.images.shape) == expected, f"a batch has the shape {tuple(batch.images.shape)}, not {expected}"
        )
        expect(not isinstance(source, EncodedSource) or batch.keys, "no image of the first batch could be read")


CHECKS = (
    it_opens_with_known_splits,
    the_classes_are_names,
    labels_are_class_indices,
    reading_returns_the_image_with_its_label,
    reading_twice_returns_the_same_image,
    worker_processes_can_read_it,
    batches_can_be_loaded,
)
