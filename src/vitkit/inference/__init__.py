"""Runs models on streams of images. There is one result per image, in order, also for images that cannot be read.

`Predictor` runs a model on a stream of images; it decodes in worker threads and chooses precision, device and batches.
`Classifier`, which `vitkit.load` returns, is a model with its processor and labels. `expand` resolves folders and globs
to image files. `engine` makes fast copies of models, `runtimes` exports models and runs the exports.
"""

from vitkit.inference.classifier import Classifier, UntrainedHeadWarning, load
from vitkit.inference.expand import expand
from vitkit.inference.predictions import Prediction, check_threshold, top_predictions
from vitkit.inference.predictor import Outcome, Predictor
from vitkit.inference.results import Classification, Classifications, Embedding, Embeddings

__all__ = [
    "Classification",
    "Classifications",
    "Classifier",
    "Embedding",
    "Embeddings",
    "Outcome",
    "Prediction",
    "Predictor",
    "UntrainedHeadWarning",
    "check_threshold",
    "expand",
    "load",
    "top_predictions",
]
