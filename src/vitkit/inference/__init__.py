"""Predict: the only inference path. Images of any kind in, in order; one outcome each out, also for those that cannot
be read.

`Predictor` runs a network over a stream of images (decoding in threads beside it, precision, device, batches);
`Classifier` is what `vitkit.load` gives: the network with its processor and labels; `expand` turns what people type
into a list of files.
"""

from vitkit.inference.classifier import Classifier, expand, load
from vitkit.inference.predictor import Outcome, Prediction, Predictor, top_predictions

__all__ = ["Classifier", "Outcome", "Prediction", "Predictor", "expand", "load", "top_predictions"]
