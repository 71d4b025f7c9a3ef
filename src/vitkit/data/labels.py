"""Class names that checkpoints leave out: those of ImageNet-1k, which every 1000-class file of the field means."""

from functools import cache
from importlib.resources import files


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
    text = files("vitkit.data").joinpath("imagenet1k.tsv").read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines()]
