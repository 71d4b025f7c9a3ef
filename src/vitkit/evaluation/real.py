"""Accuracy with alternative labels for the same images, such as the ReaL labels of ImageNet.

"Are we done with ImageNet?" (Beyer et al. 2020). Its `real.json` is a list that begins with the labels of
ILSVRC2012_val_00000001.JPEG. For other images, use an object {file name: labels}.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from vitkit.evaluation import ModelOutputs, Predictions, top1
from vitkit.evaluation.requirements import EvaluationData, top5
from vitkit.regular import read_text

NUMBERED = re.compile(r"ILSVRC2012_val_(\d{8})\b")


def check(data: EvaluationData, labels: str) -> tuple[str, ...]:
    """Returns the names of the metrics. Raises ValueError or OSError for an invalid or unreadable label file."""
    highest = max((label for each in read(Path(labels)).values() for label in each), default=-1)
    if highest >= data.num_classes:
        raise ValueError(
            f"'{labels}' contains the label {highest}, but the classes of the images are 0 to {data.num_classes - 1}"
        )
    return ("accuracy", "loss", "images", *top5(data))


def evaluate(subject: ModelOutputs, labels: str) -> dict[str, float]:
    """Returns the metrics of the evaluator `top1`, computed with the labels in a JSON file.

    Images with an empty list of labels are excluded.
    """
    return top1.metrics(relabel(subject.predictions, read(Path(labels))))


def read(path: Path) -> Mapping[str, Sequence[int]]:
    """Reads a JSON file with the labels of each image. Raises ValueError if it does not contain lists of labels."""
    try:
        entries = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"'{path}' is not JSON: {error}") from None
    if isinstance(entries, list):
        entries = {f"ILSVRC2012_val_{number:08d}.JPEG": labels for number, labels in enumerate(entries, start=1)}
    if not isinstance(entries, dict) or not all(_are_labels(labels) for labels in entries.values()):
        raise ValueError(f"'{path}' is neither a list of label lists nor an object that maps file names to label lists")
    return entries


def relabel(predictions: Predictions, labels: Mapping[str, Sequence[int]]) -> Predictions:
    """Returns the predictions with multi-hot targets from `labels`. An empty list of labels gives a row of zeros.

    Raises ValueError for images without an entry in `labels`, and for class indices out of range.
    """
    num = predictions.targets.shape[1]
    targets = torch.zeros_like(predictions.targets)
    missing = []
    for row, key in enumerate(predictions.keys):
        # Keys are the path in the dataset, the file name, or the numbered ImageNet file name.
        numbered = NUMBERED.search(key)
        names = [key, key.rpartition("/")[2], *([f"{numbered[0]}.JPEG"] if numbered else [])]
        name = next((name for name in names if name in labels), None)
        if name is None:
            missing.append(key)
            continue
        invalid = [label for label in labels[name] if not 0 <= label < num]
        if invalid:
            raise ValueError(f"'{key}' has the label {invalid[0]}; the model has the classes 0 to {num - 1}")
        targets[row, list(labels[name])] = 1.0
    if missing:
        raise ValueError(f"there are no labels for {len(missing)} of {targets.shape[0]} images, such as '{missing[0]}'")
    return replace(predictions, targets=targets)


def _are_labels(labels: object) -> bool:
    return isinstance(labels, list) and all(isinstance(label, int) and not isinstance(label, bool) for label in labels)
