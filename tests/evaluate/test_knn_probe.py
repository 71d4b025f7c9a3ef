"""k-NN against scikit-learn's with DINO's weights; the probe against scikit-learn's logistic regression."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from vitkit import evaluate
from vitkit.evaluate import Representations, Subject, knn, probe

CLASSES = 7


class Given(Subject):
    """A subject whose representations are known."""

    def __init__(self, training: Representations, judged: Representations):
        self.known = training, judged

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
    centres = np.random.default_rng(99).normal(size=(CLASSES, width))
    vectors = centres[labels] + 1.2 * random.normal(size=(num, width))
    return Representations(torch.from_numpy(vectors).float(), torch.eye(CLASSES)[torch.from_numpy(labels)])


@pytest.mark.parametrize("most", [2**25, 300 * 7])
def test_knn_is_that_of_scikit_learn(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "MOST_SIMILARITIES", most)  # in one piece, and seven pictures at a time
    training, judged = clouds(300, 1), clouds(250, 2)
    numbers = evaluate.evaluate(Given(training, judged), ["knn"])
    truth = judged.labels.numpy()
    for k in (10, 20, 100, 200):
        oracle = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
        ).fit(training.vectors.double().numpy(), training.labels.numpy())
        scores = oracle.predict_proba(judged.vectors.double().numpy())
        assert numbers[f"knn.k{k}"] == pytest.approx((scores.argmax(1) == truth).mean(), abs=1e-12)
        five = np.argsort(-scores, axis=1)[:, :5]
        hits = (five == truth[:, None]) & (np.take_along_axis(scores, five, 1) > 0)
        assert numbers[f"knn.k{k}_top5"] == pytest.approx(hits.any(1).mean(), abs=1e-12)
        similar, classes = knn.neighbours(judged.vectors, training.vectors, training.labels, k)
        votes = knn.vote(similar, classes, CLASSES)
        np.testing.assert_allclose((votes / votes.sum(1, keepdim=True)).numpy(), scores, atol=2e-5)
    assert 0.3 < numbers["knn.k20"] < 1.0


def test_knn_leaves_out_more_neighbours_than_there_are() -> None:
    judged = clouds(20, 2)
    assert "knn.k20" in evaluate.evaluate(Given(clouds(20, 1), judged), ["knn"])
    assert "knn.k100" not in evaluate.evaluate(Given(clouds(20, 1), judged), ["knn"])
    with pytest.raises(ValueError, match="knn asks 10 neighbours, and there are 9 training pictures"):
        evaluate.evaluate(Given(clouds(9, 1), judged), ["knn"])


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_the_fit_is_the_optimum_of_scikit_learn(l2: float) -> None:
    training = clouds(400, 1)
    x, labels = training.vectors.double(), training.labels
    oracle = LogisticRegression(C=1 / (l2 * 400), tol=1e-10, max_iter=10000).fit(x.numpy(), labels.numpy())
    found = probe.fit(x, labels, CLASSES, l2)
    np.testing.assert_allclose(found.weight.numpy(), oracle.coef_, atol=2e-4 * max(1, np.abs(oracle.coef_).max()))
    # A bias may move for all classes together without changing anything.
    np.testing.assert_allclose(
        (found.bias - found.bias.mean()).numpy(), oracle.intercept_ - oracle.intercept_.mean(), atol=2e-3
    )
    np.testing.assert_allclose(found(x).softmax(1).numpy(), oracle.predict_proba(x.numpy()), atol=1e-4)
    assert found.gradient < 1e-6


def test_where_a_fit_starts_does_not_change_where_it_ends() -> None:
    training = clouds(200, 1)
    x = training.vectors.double()
    warm = probe.path(x, training.labels, CLASSES, (1.0, 0.1, 0.01))[-1]
    cold = probe.fit(x, training.labels, CLASSES, 0.01)
    torch.testing.assert_close(warm.weight, cold.weight, atol=1e-4, rtol=1e-4)


def test_the_probe_is_scikit_learn_with_the_penalty_it_chose() -> None:
    training, judged = clouds(300, 1), clouds(250, 2)
    numbers = evaluate.evaluate(Given(training, judged), ["probe"])
    x, z = training.vectors.double().numpy(), judged.vectors.double().numpy()
    mean, std, labels = x.mean(0), x.std(0), training.labels.numpy()
    x, z = (x - mean) / std, (z - mean) / std
    kept, held = (each.numpy() for each in probe.split(training.labels))

    def oracle(l2: float, rows: np.ndarray) -> LogisticRegression:
        model = LogisticRegression(C=1 / (l2 * len(rows)), tol=1e-10, max_iter=10000)
        return model.fit(x[rows], labels[rows])

    scores = {l2: oracle(l2, kept).score(x[held], labels[held]) for l2 in probe.STRENGTHS}
    assert numbers["probe.held_out"] == pytest.approx(max(scores.values()))
    best = max(l2 for l2, score in scores.items() if score == max(scores.values()))
    assert numbers["probe.l2"] == best
    assert numbers["probe.accuracy"] == pytest.approx(oracle(best, np.arange(300)).score(z, judged.labels.numpy()))
    assert numbers["probe.gradient"] < 1e-6


@pytest.mark.slow
def test_a_feature_that_never_changes_and_a_class_of_one_picture_do_no_harm() -> None:
    training, judged = clouds(60, 1), clouds(30, 2)
    training.vectors[:, 3] = 5.0
    targets = torch.eye(CLASSES)[torch.tensor([0] + [1, 2, 3] * 19 + [1, 2])]
    known = Given(Representations(training.vectors, targets), judged)
    assert all(np.isfinite(value) for value in evaluate.evaluate(known, ["probe"]).values())
    kept, held = probe.split(targets.argmax(1))
    assert 0 in kept.tolist()
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(60))
    with pytest.raises(ValueError, match="no class has two of them"):
        probe.split(torch.arange(4))
