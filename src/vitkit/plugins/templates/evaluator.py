"""An evaluator: the mean confidence, and how much it differs from the accuracy.

    vitkit check ./my_evaluator.py
    vitkit evaluate runs/digits/best --data digits --with top1,./my_evaluator.py
    vitkit train digits.tiny --set 'evaluators=["top1","./my_evaluator.py"]'

The metrics are named after the file: my_evaluator.confidence and my_evaluator.overconfidence.
"""

from vitkit.evaluation import ModelOutputs
from vitkit.evaluation.requirements import EvaluationData

# What the evaluator reads: "predictions" (logits of labeled images), "representations" (inputs of the head, with
# labeled training images), "images" (inputs of the head, without labels), or "model".
READS = "predictions"
# Whether the metrics are fractions between 0 and 1, which are displayed in percent.
FRACTIONS = True
# Problem types of the supported models; see docs/tasks.md.
PROBLEM_TYPES = ("single_label_classification",)


def check(data: EvaluationData) -> tuple[str, ...]:
    """Returns the names of the metrics, before any image is read.

    Raise ValueError here if the metrics cannot be computed for these data.
    """
    if data.num_classes < 2:
        raise ValueError(f"the data has {data.num_classes} classes; my_evaluator needs at least 2")
    return ("confidence", "overconfidence")


def evaluate(subject: ModelOutputs) -> dict[str, float]:
    """Returns the metrics by name, as Python floats.

    `subject.predictions` has the `logits`, the `targets` and the `scores` (probabilities) of all images, each of shape
    (n, classes), and the image names as `keys`. The model runs once for all evaluators.
    """
    predictions = subject.predictions
    confidence, predicted = predictions.scores.double().max(dim=1)
    hits = predictions.targets.gather(1, predicted[:, None])[:, 0] > 0
    return {
        "confidence": confidence.mean().item(),
        "overconfidence": (confidence.mean() - hits.double().mean()).item(),
    }
