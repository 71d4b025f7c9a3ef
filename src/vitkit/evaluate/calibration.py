"""Whether a model is right as often as it says it is (Guo et al. 2017, "On Calibration of Modern Neural Networks")."""

from dataclasses import dataclass

from vitkit.evaluate import Predictions, Subject


@dataclass(frozen=True)
class Bin:
    """Predictions of about the same certainty: their mean certainty, the share that is right, and how many they are."""

    certainty: float
    accuracy: float
    pictures: int


def evaluate(subject: Subject) -> dict[str, float]:
    """`error`: the expected calibration error over 10 equal bins, |certainty - accuracy| weighted by pictures."""
    found = bins(subject.predictions)
    total = sum(each.pictures for each in found)
    return {"error": sum(abs(each.certainty - each.accuracy) * each.pictures for each in found) / total}


def bins(predictions: Predictions, num: int = 10) -> list[Bin]:
    """The labelled pictures by how certain the likeliest class is, in equal bins of certainty; empty ones are left out.

    Raises ValueError where no picture has a label.
    """
    labelled = predictions.targets.sum(dim=1) > 0
    if not labelled.any():
        raise ValueError("none of the pictures has a label")
    certainty, guess = (part[labelled] for part in predictions.scores.double().max(dim=1))
    right = predictions.targets[labelled].gather(1, guess[:, None])[:, 0] > 0
    place = (certainty * num).long().clamp(max=num - 1)
    found = []
    for index in range(num):
        inside = place == index
        if inside.any():
            mean, accuracy = certainty[inside].mean().item(), right[inside].double().mean().item()
            found.append(Bin(certainty=mean, accuracy=accuracy, pictures=int(inside.sum())))
    return found
