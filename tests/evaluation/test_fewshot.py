"""Few-shot regression equals the published formula in float64 numpy; outputs are computed once."""

import numpy as np
import pytest
import torch

from vitkit import evaluation, models
from vitkit.data.loader import Batch
from vitkit.evaluation import ModelOutputs, Representations, fewshot
from vitkit.models import vit

CLASSES = 6


class FixedSubject(ModelOutputs):
    """A subject with given representations."""

    def __init__(self, training: Representations, test: Representations):
        self.classes = tuple("abcdef")
        self.known = training, test

    @property
    def training_representations(self) -> Representations:  # type: ignore[override]
        return self.known[0]

    @property
    def representations(self) -> Representations:  # type: ignore[override]
        return self.known[1]

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


def clouds(num: int, width: int, seed: int, spread: float = 1.5) -> Representations:
    """Returns overlapping clusters with features of very different scale."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, num)
    centers = np.random.default_rng(99).normal(size=(CLASSES, width))
    vectors = (centers[labels] + spread * random.normal(size=(num, width))) * np.linspace(0.1, 20, width) + 3
    return Representations(torch.from_numpy(vectors).float(), torch.eye(CLASSES)[torch.from_numpy(labels)])


def naive_accuracy(training: Representations, test: Representations, shots: int, seed: int) -> float:
    x_all, labels = training.vectors.numpy().astype(np.float64), training.targets.argmax(1).numpy()
    x_test, truth = test.vectors.numpy().astype(np.float64), test.targets.argmax(1).numpy()
    random = np.random.default_rng(seed)
    chosen = []
    for label in range(CLASSES):
        chosen += list(random.permutation(np.where(labels == label)[0])[:shots])
    x, y = x_all[chosen], np.full((len(chosen), CLASSES), -1.0)
    y[range(len(chosen)), labels[chosen]] = 1.0
    mean, std = x.mean(0), x.std(0) + 1e-5
    x = np.hstack([(x - mean) / std, np.full((len(x), 1), 100.0)])
    x_test = np.hstack([(x_test - mean) / std, np.full((len(x_test), 1), 100.0)])
    w = np.linalg.inv(x.T @ x + 2**10 * np.eye(x.shape[1])) @ x.T @ y
    return float(((x_test @ w).argmax(1) == truth).mean())


# With 6 to 150 training images, 20 features run both branches and 400 features only the second.
@pytest.mark.parametrize("width", [20, 400])
def test_fewshot_equals_the_formula(width: int) -> None:
    training, test = (clouds(num, width, seed, spread=0.5 * width**0.5) for num, seed in ((400, 1), (300, 2)))
    numbers = evaluation.evaluate(FixedSubject(training, test), ["fewshot"])
    for shots in (1, 5, 10, 25):
        expected = [naive_accuracy(training, test, shots, seed) for seed in range(3)]
        actual = [numbers[f"fewshot.{shots}shot_seed{seed}"] for seed in range(3)]
        assert actual == pytest.approx(expected, abs=1e-12)
        assert numbers[f"fewshot.{shots}shot"] == pytest.approx(np.mean(expected))
    assert numbers["fewshot.1shot"] < numbers["fewshot.25shot"] < 1.0


@pytest.mark.parametrize("num", [5, 12, 13, 60])
def test_least_squares_equals_the_normal_equations(num: int) -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(num, 12)), random.normal(size=(num, 3))
    expected = np.linalg.solve(x.T @ x + 7.0 * np.eye(12), x.T @ y)
    np.testing.assert_allclose(fewshot.least_squares(x, y, 7.0), expected, atol=1e-12)


def test_shots_are_the_first_of_a_permutation_of_each_class() -> None:
    labels = np.array([2, 0, 0, 2, 0, 1, 0])
    random = np.random.default_rng(5)
    orders = [random.permutation(np.array(each)) for each in ([1, 2, 4, 6], [5], [0, 3])]
    np.testing.assert_array_equal(fewshot.sample_shots(labels, 3, 4, 5), np.concatenate(orders))
    np.testing.assert_array_equal(fewshot.sample_shots(labels, 3, 1, 5), [order[0] for order in orders])


def test_evaluators_share_one_pass_over_each_set() -> None:
    torch.manual_seed(0)
    model = models.build(vit.TINY)
    passes = []

    def batches(kind: str, num: int) -> list[Batch]:
        passes.append(kind)
        random = torch.Generator().manual_seed(num)
        images = torch.randn(num, model.config.channels, *model.config.image_size, generator=random)
        return [Batch(images, torch.eye(5)[torch.arange(num) % 5], tuple(map(str, range(num))))]

    subject = ModelOutputs(model, lambda: batches("test", 10), tuple("abcde"), training=lambda: batches("training", 30))
    evaluation.evaluate(subject, ["top1", "calibration", "fewshot", "knn", "probe"])
    assert sorted(passes) == ["test", "training"]
    images = batches("test", 10)[0].images
    with torch.no_grad():
        expected = model.eval().represent(model.features(images))
    torch.testing.assert_close(subject.representations.vectors, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["fewshot", "knn", "probe"])
def test_missing_training_images_raise(name: str) -> None:
    model = models.build(vit.TINY)
    images = torch.zeros(2, model.config.channels, *model.config.image_size)
    subject = ModelOutputs(model, lambda: [Batch(images, torch.eye(5)[:2], ("a", "b"))], tuple("abcde"))
    with pytest.raises(ValueError, match="need labeled training images, but none were given"):
        evaluation.evaluate(subject, [name])


def test_a_model_without_classes_has_representations_but_no_predictions() -> None:
    model = models.build(vit.TINY)
    model.reset_head(0)
    images = torch.zeros(2, model.config.channels, *model.config.image_size)
    targets = torch.tensor([[1.0, 0, 0], [0, 0, 0]])
    subject = ModelOutputs(model, lambda: [Batch(images, targets, ("a", "b"))], tuple("abc"))
    assert subject.representations.vectors.shape == (1, model.pool_width), "an image without a label is excluded"
    with pytest.raises(ValueError, match="has no classes; evaluate it with"):
        _ = subject.predictions


def test_a_model_with_other_classes_raises() -> None:
    model = models.build(vit.TINY)
    images = torch.zeros(2, model.config.channels, *model.config.image_size)
    subject = ModelOutputs(model, lambda: [Batch(images, torch.eye(3)[:2], ("a", "b"))], tuple("abc"))
    with pytest.raises(ValueError, match=r"2 images and 3 classes have the shape \(2, 5\)"):
        _ = subject.predictions


def test_predictions_of_a_distilled_model_use_both_heads() -> None:
    torch.manual_seed(0)
    model = models.build(models.family("deit").TINY)
    torch.nn.init.normal_(model.head.weight)
    torch.nn.init.normal_(model.head_dist.weight)  # type: ignore[union-attr]
    images = torch.randn(2, model.config.channels, *model.config.image_size)
    subject = ModelOutputs(model, lambda: [Batch(images, torch.eye(5)[:2], ("a", "b"))], tuple("abcde"))
    with torch.no_grad():
        expected = model.eval()(images)
        features = model.features(images)
    torch.testing.assert_close(subject.predictions.logits, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, model.head(model.represent(features)), atol=1e-2)
