"""Whose class is whose: by name, by synset, and refused where it is a guess."""

import pytest
from PIL import Image

from vitkit.data import Example, Label, Source
from vitkit.data.labels import imagenet1k, imagenet1k_synsets, matched, numbers_of

LABELS = ("tench, Tinca tinca", "Red wine", "crane", "crane", "maillot, tank suit", "sea_slug")


class Three(Source):
    """A picture of each class."""

    def __init__(self, *classes: str):
        self.classes = classes

    def __len__(self) -> int:
        return len(self.classes)

    def read(self, index: int, **opening: object) -> Example:
        return Example(image=Image.new("RGB", (4, 4)), label=self.label(index), key=str(index))

    def label(self, index: int) -> Label:
        return index


@pytest.mark.parametrize(
    ("name", "number"),
    [("tench, Tinca tinca", 0), ("tench", 0), ("Tinca_Tinca", 0), ("red-wine", 1), ("tank suit", 4), ("Sea slug", 5)],
)
def test_a_class_is_found_by_its_name_or_one_of_its_names(name: str, number: int) -> None:
    assert numbers_of([name], LABELS, name="x") == (number,)


def test_pictures_keep_their_class_under_its_new_number() -> None:
    source = matched(Three("sea slug", "tench", "red wine"), LABELS, name="x")
    assert source.classes == LABELS
    assert [source.label(index) for index in range(3)] == [5, 0, 1]
    assert [source.read(index).label for index in range(3)] == [5, 0, 1]
    same = Three(*"abc")
    assert matched(same, tuple("abc"), name="x") is same


def test_wordnet_ids_name_the_classes_of_imagenet_even_the_two_cranes() -> None:
    synsets, labels = imagenet1k_synsets(), imagenet1k()
    assert numbers_of(synsets, labels, name="x") == tuple(range(1000))
    assert numbers_of(["n02012849", "n03126707"], labels, name="x") == (134, 517)
    assert labels[134] == labels[517] == "crane"
    # A checkpoint that writes a few names in its own way is ImageNet all the same; another model's 1000 are not.
    assert numbers_of(["n01440764"], ("a tench", *labels[1:]), name="x") == (0,)
    with pytest.raises(ValueError, match="n01440764 is not among the model's"):
        numbers_of(["n01440764"], tuple(f"thing {index}" for index in range(1000)), name="x")


def test_a_model_without_names_takes_classes_in_their_order() -> None:
    assert numbers_of(["cat", "dog"], ("class 0", "class 1"), name="x") == (0, 1)
    assert numbers_of(["cat", "dog"], ("LABEL_0", "LABEL_1"), name="x") == (0, 1)
    assert numbers_of(["class 1", "class 0"], ("class 0", "class 1"), name="x") == (1, 0)
    with pytest.raises(ValueError, match="cat, dog are not among the model's"):
        numbers_of(["cat", "dog"], ("class 0", "class 1", "class 2"), name="x")


def test_what_does_not_fit_is_said_with_both_sides() -> None:
    with pytest.raises(
        ValueError, match=r"'x' has 2 classes \(tench, cat\), the model 6 \(tench, Red wine, crane and 3"
    ):
        numbers_of(["tench", "cat"], LABELS, name="x")
    with pytest.raises(ValueError, match="the class 'crane' of 'x' may be the model's 2, 3"):
        numbers_of(["crane"], LABELS, name="x")
    with pytest.raises(ValueError, match="the classes tench, Tinca tinca of 'x' are one class of the model"):
        numbers_of(["tench", "Tinca tinca"], LABELS, name="x")
