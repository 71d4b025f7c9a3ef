"""k-NN equals scikit-learn's with DINO's weights; the probe equals scikit-learn's logistic regression."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from vitkit import evaluation
from vitkit.evaluation import ModelOutputs, Representations, knn, probe

CLASSES = 7


class FixedSubject(ModelOutputs):
    """A subject with given representations."""

    def __init__(self, training: Representations, test: Representations):
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


def clouds(num: int, seed: int, width: int = 12) -> Representations:
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, num)
    centers = np.random.default_rng(99).normal(size=(CLASSES, width))
    vectors = centers[labels] + 1.2 * random.normal(size=(num, width))
    return Representations(torch.from_numpy(vectors).float(), torch.eye(CLASSES)[torch.from_numpy(labels)])


@pytest.mark.parametrize("limit", [2**25, 300 * 7])
def test_knn_equals_scikit_learn(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "MAX_SIMILARITIES", limit)  # in one chunk, and in chunks of seven images
    training, test = clouds(300, 1), clouds(250, 2)
    numbers = evaluation.evaluate(FixedSubject(training, test), ["knn"])
    truth = test.labels.numpy()
    for k in (10, 20, 100, 200):
        oracle = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
        ).fit(training.vectors.double().numpy(), training.labels.numpy())
        scores = oracle.predict_proba(test.vectors.double().numpy())
        assert numbers[f"knn.k{k}"] == pytest.approx((scores.argmax(1) == truth).mean(), abs=1e-12)
        five = np.argsort(-scores, axis=1)[:, :5]
        hits = (five == truth[:, None]) & (np.take_along_axis(scores, five, 1) > 0)
        assert numbers[f"knn.k{k}_top5"] == pytest.approx(hits.any(1).mean(), abs=1e-12)
        similar, classes = knn.neighbors(test.vectors, training.vectors, training.labels, k)
        votes = knn.vote(similar, classes, CLASSES)
        np.testing.assert_allclose((votes / votes.sum(1, keepdim=True)).numpy(), scores, atol=2e-5)
    assert 0.3 < numbers["knn.k20"] < 1.0


def test_knn_omits_more_neighbors_than_training_images() -> None:
    test = clouds(20, 2)
    assert "knn.k20" in evaluation.evaluate(FixedSubject(clouds(20, 1), test), ["knn"])
    assert "knn.k100" not in evaluation.evaluate(FixedSubject(clouds(20, 1), test), ["knn"])
    with pytest.raises(ValueError, match="knn needs at least 10 labeled training images, but there are 9"):
        evaluation.evaluate(FixedSubject(clouds(9, 1), test), ["knn"])


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_the_fit_equals_scikit_learn(l2: float) -> None:
    training = clouds(400, 1)
    x, labels = training.vectors.double(), training.labels
    oracle = LogisticRegression(C=1 / (l2 * 400), tol=1e-10, max_iter=10000).fit(x.numpy(), labels.numpy())
    fitted = probe.fit(x, labels, CLASSES, l2)
    np.testing.assert_allclose(fitted.weight.numpy(), oracle.coef_, atol=2e-4 * max(1, np.abs(oracle.coef_).max()))
    # Adding a constant to all biases does not change the probabilities.
    np.testing.assert_allclose(
        (fitted.bias - fitted.bias.mean()).numpy(), oracle.intercept_ - oracle.intercept_.mean(), atol=2e-3
    )
    np.testing.assert_allclose(fitted(x).softmax(1).numpy(), oracle.predict_proba(x.numpy()), atol=1e-4)
    assert fitted.gradient < 1e-6


def test_the_fit_does_not_depend_on_the_start() -> None:
    training = clouds(200, 1)
    x = training.vectors.double()
    warm = probe.fit_path(x, training.labels, CLASSES, (1.0, 0.1, 0.01))[-1]
    cold = probe.fit(x, training.labels, CLASSES, 0.01)
    torch.testing.assert_close(warm.weight, cold.weight, atol=1e-4, rtol=1e-4)


def test_the_probe_equals_scikit_learn_with_the_chosen_penalty() -> None:
    training, test = clouds(300, 1), clouds(250, 2)
    numbers = evaluation.evaluate(FixedSubject(training, test), ["probe"])
    x, z = training.vectors.double().numpy(), test.vectors.double().numpy()
    mean, std, labels = x.mean(0), x.std(0), training.labels.numpy()
    x, z = (x - mean) / std, (z - mean) / std
    train, held_out = (each.numpy() for each in probe.split(training.labels))

    def oracle(l2: float, rows: np.ndarray) -> LogisticRegression:
        model = LogisticRegression(C=1 / (l2 * len(rows)), tol=1e-10, max_iter=10000)
        return model.fit(x[rows], labels[rows])

    scores = {l2: oracle(l2, train).score(x[held_out], labels[held_out]) for l2 in probe.STRENGTHS}
    assert numbers["probe.held_out"] == pytest.approx(max(scores.values()))
    best = max(l2 for l2, score in scores.items() if score == max(scores.values()))
    assert numbers["probe.l2"] == best
    assert numbers["probe.accuracy"] == pytest.approx(oracle(best, np.arange(300)).score(z, test.labels.numpy()))
    assert numbers["probe.gradient"] < 1e-6


@pytest.mark.slow
def test_a_constant_feature_and_a_class_with_one_image() -> None:
    training, test = clouds(60, 1), clouds(30, 2)
    training.vectors[:, 3] = 5.0
    targets = torch.eye(CLASSES)[torch.tensor([0] + [1, 2, 3] * 19 + [1, 2])]
    known = FixedSubject(Representations(training.vectors, targets), test)
    assert all(np.isfinite(value) for value in evaluation.evaluate(known, ["probe"]).values())
    train, held_out = probe.split(targets.argmax(1))
    assert 0 in train.tolist()
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(60))
    with pytest.raises(ValueError, match="at least two training images"):
        probe.split(torch.arange(4))
