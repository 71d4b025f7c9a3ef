"""Matching of dataset classes to model labels, by name or synset; ambiguous classes raise."""

import pytest
from PIL import Image

from vitkit.data import Example, Label, Source
from vitkit.data.labels import class_indices, imagenet1k, imagenet1k_synsets, matched

LABELS = ("tench, Tinca tinca", "Red wine", "crane", "crane", "maillot, tank suit", "sea_slug")


class Three(Source):
    """One image of each class."""

    def __init__(self, *classes: str):
        self.classes = classes

    def __len__(self) -> int:
        return len(self.classes)

    def read(self, index: int, **options: object) -> Example:
        return Example(image=Image.new("RGB", (4, 4)), label=self.label(index), key=str(index))

    def label(self, index: int) -> Label:
        return index


@pytest.mark.parametrize(
    ("name", "number"),
    [("tench, Tinca tinca", 0), ("tench", 0), ("Tinca_Tinca", 0), ("red-wine", 1), ("tank suit", 4), ("Sea slug", 5)],
)
def test_a_class_matches_its_label_or_one_of_its_names(name: str, number: int) -> None:
    assert class_indices([name], LABELS, name="x") == (number,)


def test_labels_are_mapped_to_model_labels() -> None:
    source = matched(Three("sea slug", "tench", "red wine"), LABELS, name="x")
    assert source.classes == LABELS
    assert [source.label(index) for index in range(3)] == [5, 0, 1]
    assert [source.read(index).label for index in range(3)] == [5, 0, 1]
    same = Three(*"abc")
    assert matched(same, tuple("abc"), name="x") is same


def test_wordnet_ids_match_imagenet_labels() -> None:
    synsets, labels = imagenet1k_synsets(), imagenet1k()
    assert class_indices(synsets, labels, name="x") == tuple(range(1000))
    assert class_indices(["n02012849", "n03126707"], labels, name="x") == (134, 517)
    assert labels[134] == labels[517] == "crane"
    # A checkpoint with a few differently spelled names counts as ImageNet-1k; other models with 1000 classes do not.
    assert class_indices(["n01440764"], ("a tench", *labels[1:]), name="x") == (0,)
    with pytest.raises(ValueError, match="n01440764 has no label"):
        class_indices(["n01440764"], tuple(f"thing {index}" for index in range(1000)), name="x")


def test_a_model_without_class_names_takes_classes_in_order() -> None:
    assert class_indices(["cat", "dog"], ("class 0", "class 1"), name="x") == (0, 1)
    assert class_indices(["cat", "dog"], ("LABEL_0", "LABEL_1"), name="x") == (0, 1)
    assert class_indices(["class 1", "class 0"], ("class 0", "class 1"), name="x") == (1, 0)
    with pytest.raises(ValueError, match="cat, dog have no label"):
        class_indices(["cat", "dog"], ("class 0", "class 1", "class 2"), name="x")


def test_classes_without_label_raise() -> None:
    with pytest.raises(
        ValueError, match=r"'x' has 2 classes \(tench, cat\), the model 6 \(tench, Red wine, crane and 3"
    ):
        class_indices(["tench", "cat"], LABELS, name="x")
    with pytest.raises(ValueError, match="the class 'crane' of 'x' matches several labels of the model: 2, 3"):
        class_indices(["crane"], LABELS, name="x")
    with pytest.raises(ValueError, match="the classes tench, Tinca tinca of 'x' match the same label of the model"):
        class_indices(["tench", "Tinca tinca"], LABELS, name="x")
