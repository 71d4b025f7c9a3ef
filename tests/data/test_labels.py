"""Matching of dataset classes to model labels, by name or synset; ambiguous classes raise."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from oracles import oracle
from PIL import Image
from slow_cases import slow_except

import vitkit
from vitkit import checkpoints, models
from vitkit.data import Example, Label, Source
from vitkit.data.labels import (
    SUBSETS,
    class_indices,
    default_labels,
    imagenet1k,
    imagenet1k_synsets,
    imagenet21k,
    imagenet21k_synsets,
    matched,
)
from vitkit.data.processor import Processor
from vitkit.models import vit

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
    with pytest.raises(ValueError, match="no label matches n01440764"):
        class_indices(["n01440764"], tuple(f"thing {index}" for index in range(1000)), name="x")


def test_names_of_imagenet_21k_and_its_subsets() -> None:
    names, synsets = imagenet21k(), imagenet21k_synsets()
    assert len(names) == len(synsets) == len(set(synsets)) == 21843
    assert synsets == tuple(sorted(synsets))
    assert (synsets[0], names[0]) == ("n00004475", "organism, being")
    # The two classes that only Google's heads have.
    most = set(imagenet21k_synsets(21841))
    missing = [index for index, synset in enumerate(synsets) if synset not in most]
    assert missing == [9205, 15027]
    assert [names[index] for index in missing] == ["picture, image, icon, ikon", "bleacher"]
    by_id = dict(zip(synsets, names, strict=True))
    for number in SUBSETS:
        assert len(imagenet21k(number)) == number
        assert [by_id[synset] for synset in imagenet21k_synsets(number)] == list(imagenet21k(number))
        assert default_labels(number) == imagenet21k(number)
    # The same synset has the same name as in ImageNet-1k; one of its synsets is not in ImageNet-21k.
    known = dict(zip(imagenet1k_synsets(), imagenet1k(), strict=True))
    assert known.keys() - by_id.keys() == {"n04399382"}
    assert all(by_id[synset] == name for synset, name in known.items() if synset in by_id)
    assert all(name and name.isprintable() and name == name.strip() for name in names)
    assert default_labels(21842)[0] == "class 0"


TIMM = {21843: "imagenet21k-goog", 21841: "imagenet22k", 11821: "imagenet12k", 11221: "imagenet21k-miil"}


@pytest.mark.parametrize("number", TIMM)
def test_the_order_is_timm_s(number: int) -> None:
    info = oracle("timm.data").ImageNetInfo(TIMM[number])
    assert tuple(info.label_names()) == imagenet21k_synsets(number)
    assert [info.index_to_description(index) for index in range(0, number, 997)] == list(imagenet21k(number)[::997])


def test_wordnet_ids_match_imagenet_21k_labels() -> None:
    assert class_indices(["n09859684", "n00004475"], imagenet21k(), name="x") == (15027, 0)
    with pytest.raises(ValueError, match="no label matches n09859684"):
        class_indices(["n09859684"], imagenet21k(21841), name="x")


def test_the_data_file_is_small_and_has_its_licence() -> None:
    folder = Path(vitkit.__file__).parent / "data"
    assert (folder / "imagenet21k.tsv.gz").stat().st_size < 400_000
    assert "WordNet Release 3.0" in (folder / "imagenet21k.md").read_text()


@pytest.mark.parametrize("labels", slow_except(["none", "placeholders", "own"], "none"))
def test_a_checkpoint_of_21843_classes_loads_with_names(labels: str, tmp_path: Path) -> None:
    config = replace(vit.TINY, width=8, num_heads=1, depth=1, mlp_width=8, num_classes=21843)
    named = {"none": default_labels(21843), "own": tuple(f"thing {index}" for index in range(21843))}
    given = named.get(labels, tuple(f"LABEL_{index}" for index in range(21843)))
    model = models.build(config)
    if labels == "none":
        torch.save(model.state_dict(), tmp_path / "vit.pth")
        loaded = checkpoints.load(tmp_path / "vit.pth", config={"num_heads": 1})
    else:
        saved = checkpoints.Checkpoint(model=model, processor=Processor.squash(32), labels=given)
        checkpoints.save(saved, tmp_path / "saved")
        loaded = checkpoints.load(tmp_path / "saved")
    assert loaded.labels == (given if labels == "own" else imagenet21k())
    notes = "no class names in the file: using ImageNet's for 21843 classes"
    assert (notes in loaded.origin.notes) == (labels != "own")


def test_a_model_without_class_names_takes_classes_in_order() -> None:
    assert class_indices(["cat", "dog"], ("class 0", "class 1"), name="x") == (0, 1)
    assert class_indices(["cat", "dog"], ("LABEL_0", "LABEL_1"), name="x") == (0, 1)
    assert class_indices(["class 1", "class 0"], ("class 0", "class 1"), name="x") == (1, 0)
    with pytest.raises(ValueError, match="no label matches cat, dog"):
        class_indices(["cat", "dog"], ("class 0", "class 1", "class 2"), name="x")


def test_classes_without_label_raise() -> None:
    with pytest.raises(
        ValueError, match=r"'x' has 2 classes \(tench, cat\) and the model has 6 labels \(tench, Red wine, crane and 3"
    ):
        class_indices(["tench", "cat"], LABELS, name="x")
    with pytest.raises(ValueError, match="the class 'crane' of 'x' matches several labels of the model: 2, 3"):
        class_indices(["crane"], LABELS, name="x")
    with pytest.raises(ValueError, match="the classes tench, Tinca tinca of 'x' match the same label of the model"):
        class_indices(["tench", "Tinca tinca"], LABELS, name="x")
