"""Runs models on streams of images. There is one result per image, in order, also for images that cannot be read.

`Predictor` runs a model on a stream of images; it decodes in worker threads and chooses precision, device and batches.
`Classifier`, which `vitkit.load` returns, is a model with its processor and labels. `expand` resolves folders and globs
to image files. `engine` makes fast copies of models, `runtimes` exports models and runs the exports.
"""

from vitkit.inference.classifier import Classifier, UntrainedHeadWarning, load
from vitkit.inference.expand import expand
from vitkit.inference.predictor import Outcome, Prediction, Predictor, check_threshold, top_predictions

__all__ = [
    "Classifier",
    "Outcome",
    "Prediction",
    "Predictor",
    "UntrainedHeadWarning",
    "check_threshold",
    "expand",
    "load",
    "top_predictions",
]
