"""ReaL labels, subsets of classes, VTAB averages and throughput."""

import json
from pathlib import Path

import pytest
import torch

from vitkit import evaluation, models
from vitkit.data.loader import Batch
from vitkit.evaluation import ModelOutputs, Predictions, real, subset, throughput
from vitkit.models import vit
from vitkit.recipes import vtab

LOGITS = torch.tensor([[3.0, 2.0, 1.0, 5.0], [0.0, 2.0, 1.0, 9.0], [4.0, 0.0, 5.0, 0.0], [1.0, 0.0, 0.0, 2.0]])
KEYS = tuple(f"n01440764/ILSVRC2012_val_0000000{number}.JPEG" for number in (2, 1, 4, 3))


class FixedSubject(ModelOutputs):
    """A subject with given predictions."""

    def __init__(self, truth: list[int]):
        self.classes = ("cat", "dog", "fox", "tench, Tinca tinca")
        self.known = Predictions(logits=LOGITS, targets=torch.eye(4)[truth], keys=KEYS)

    @property
    def predictions(self) -> Predictions:  # type: ignore[override]
        return self.known


def test_real_labels_are_matched_by_the_number_in_the_file_name(tmp_path: Path) -> None:
    # val_1 has no label; val_2: label 3, predicted 3; val_3: labels 0 and 1, predicted 3; val_4: labels 0 and 2,
    # predicted 2.
    (tmp_path / "real.json").write_text("[[], [3], [0, 1], [0, 2]]")
    numbers = evaluation.evaluate(FixedSubject([0, 0, 0, 0]), [f"real:{tmp_path / 'real.json'}", "top1"])
    assert numbers["real:real.accuracy"] == pytest.approx(2 / 3)
    assert numbers["real:real.images"] == 3
    assert numbers["top1.accuracy"] == 0.0


def test_the_published_layout_of_real(tmp_path: Path) -> None:
    # 50,000 lists beginning with ILSVRC2012_val_00000001.JPEG; about one in fourteen is empty.
    labels = [
        [] if number % 14 == 0 else [number % 4, (number + 1) % 4][: 1 + number % 2] for number in range(1, 50_001)
    ]
    (tmp_path / "real.json").write_text(json.dumps(labels))
    result = real.read(tmp_path / "real.json")
    assert len(result) == 50_000
    assert result["ILSVRC2012_val_00000001.JPEG"] == [1, 2]
    assert result["ILSVRC2012_val_00050000.JPEG"] == labels[-1]
    numbers = real.evaluate(FixedSubject([0] * 4), str(tmp_path / "real.json"))
    # Predicted for val_2, 1, 4, 3: classes 3, 3, 2, 3. Their labels are [2], [1, 2], [0], [3, 0].
    assert numbers["images"] == 4
    assert numbers["accuracy"] == pytest.approx(1 / 4)


def test_labels_by_file_name(tmp_path: Path) -> None:
    names = {KEYS[0]: [3], KEYS[1].rpartition("/")[2]: [3], KEYS[2]: [0], KEYS[3]: []}
    (tmp_path / "labels.json").write_text(json.dumps(names))
    assert real.evaluate(FixedSubject([0] * 4), str(tmp_path / "labels.json"))["accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[], [3], [0]]", "no labels for 1 of 4 images, such as 'n01440764/ILSVRC2012_val_00000004.JPEG'"),
        ("[[], [3], [0], [4]]", "has the label 4; the model has the classes 0 to 3"),
        ("[1, 2]", "neither a list of label lists nor an object"),
        ('{"a": [true]}', "neither a list of label lists nor an object"),
        ("[[", "is not JSON"),
    ],
)
def test_wrong_label_files_raise(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "real.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        real.evaluate(FixedSubject([0] * 4), str(tmp_path / "real.json"))


@pytest.mark.parametrize("text", ["[0, 1, 2]", "0\n1\n2\n", '["cat", "Dog", 2]', "fox\ncat\n\ndog"])
def test_predictions_are_restricted_to_the_subset(tmp_path: Path, text: str) -> None:
    (tmp_path / "animals.txt").write_text(text)
    # Predictions without the fourth class: cat, dog, fox, cat. The third image has the fourth class and is excluded.
    numbers = evaluation.evaluate(FixedSubject([0, 2, 3, 0]), [f"subset:{tmp_path / 'animals.txt'}"])
    assert numbers["subset:animals.accuracy"] == pytest.approx(2 / 3)
    assert numbers["subset:animals.images"] == 3
    assert numbers["subset:animals.classes"] == 3


def test_a_subset_without_a_file_has_the_classes_of_the_images() -> None:
    numbers = subset.evaluate(FixedSubject([0, 1, 0, 0]))
    assert numbers["classes"] == 2
    assert numbers["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("text", "message"), [("[4]", "lists the class 4"), ("\n", "lists no classes"), ("cow", "no label matches cow")]
)
def test_wrong_subset_files_raise(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "animals.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        subset.evaluate(FixedSubject([0] * 4), str(tmp_path / "animals.txt"))


def test_vtab_averages_equal_the_published_ones() -> None:
    # Table 9's last column and Table 2.
    printed = {"ViT-H/14 (JFT)": 77.63, "ViT-L/16 (JFT)": 76.28, "ViT-L/16 (I21k)": 72.72}
    assert len(vtab.TASKS) == len(set(vtab.TASKS)) == 19
    for name, mean in printed.items():
        averages = vtab.averages(vtab.PUBLISHED[name])
        assert averages["mean"] == pytest.approx(mean, abs=0.06)
        weighted = sum(averages[group] * len(tasks) for group, tasks in vtab.GROUPS.items()) / 19
        assert weighted == pytest.approx(averages["mean"])
    with pytest.raises(ValueError, match="VTAB has no task 'pet'; did you mean 'pets'"):
        vtab.averages({"pet": 1.0})
    with pytest.raises(ValueError, match="mean of 19 tasks; scores are missing for caltech101, cifar100"):
        vtab.averages({"dtd": 1.0})


def test_throughput_is_the_median_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.build(vit.TINY).train()
    images = torch.randn(4, model.config.channels, *model.config.image_size)
    # Two slow warm-up calls, then 1, 2 and 9 seconds.
    times = iter([0.0, 50.0, 50.0, 90.0, 100.0, 101.0, 200.0, 202.0, 300.0, 309.0])
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(times))
    modes = []
    model.blocks[0].register_forward_hook(lambda module, *_: modes.append(module.training))
    result = throughput.measure(model, images, warm_up=2, batches=3)
    assert result == throughput.Throughput(images_per_second=2.0, batch_size=4, precision="float32", device="cpu")
    assert modes == [False] * 5
    assert model.training


def test_throughput_in_another_precision_does_not_change_the_model() -> None:
    model = models.build(vit.TINY)
    images = torch.randn(2, model.config.channels, *model.config.image_size)
    subject = ModelOutputs(model, lambda: [Batch(images, torch.eye(5)[:2], ("a", "b"))], tuple("abcde"))
    numbers = evaluation.evaluate(subject, ["throughput:bfloat16", "flops"])
    assert numbers["throughput:bfloat16.bfloat16_images_per_second"] > 0
    assert numbers["throughput:bfloat16.batch_size"] == 2
    assert numbers["flops.million_parameters"] == sum(each.numel() for each in model.parameters()) / 1e6
    assert next(model.parameters()).dtype == torch.float32
    with pytest.raises(ValueError, match="unknown precision 'int3'; choose from float32"):
        evaluation.evaluate(subject, ["throughput:int3"])
