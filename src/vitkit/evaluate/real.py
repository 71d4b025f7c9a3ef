"""Accuracy on other labels for the same pictures: ReaL's, where a picture has all the classes that people saw on it.

"Are we done with ImageNet?" (Beyer et al. 2020). Its `real.json` is a list with the labels of
ILSVRC2012_val_00000001.JPEG first; an object {file name: labels} does for any other pictures.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from vitkit.evaluate import Predictions, Subject, top1

NUMBERED = re.compile(r"ILSVRC2012_val_(\d{8})\b")


def evaluate(subject: Subject, labels: str) -> dict[str, float]:
    """As `top1`, by the labels of that JSON file; pictures without a label in it are left out, as ReaL asks."""
    return top1.numbers(relabelled(subject.predictions, read(Path(labels))))


def read(path: Path) -> Mapping[str, Sequence[int]]:
    """The labels of a JSON file by file name; ValueError where it is neither a list of lists nor an object of lists."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"'{path}' is not JSON: {error}") from None
    if isinstance(found, list):
        found = {f"ILSVRC2012_val_{number:08d}.JPEG": labels for number, labels in enumerate(found, start=1)}
    if not isinstance(found, dict) or not all(_are_labels(labels) for labels in found.values()):
        raise ValueError(f"'{path}' is neither a list of label lists nor an object of them by file name")
    return found


def relabelled(predictions: Predictions, labels: Mapping[str, Sequence[int]]) -> Predictions:
    """The predictions with other truths: multi-hot, all zero where the list of labels is empty.

    Raises ValueError for pictures that the labels do not mention, and for labels beyond the model's classes.
    """
    num = predictions.targets.shape[1]
    targets = torch.zeros_like(predictions.targets)
    missing = []
    for row, key in enumerate(predictions.keys):
        # By its path in the data, by its file name, or by the number ImageNet's file name carries.
        numbered = NUMBERED.search(key)
        names = [key, key.rpartition("/")[2], *([f"{numbered[0]}.JPEG"] if numbered else [])]
        name = next((name for name in names if name in labels), None)
        if name is None:
            missing.append(key)
            continue
        beyond = [label for label in labels[name] if not 0 <= label < num]
        if beyond:
            raise ValueError(f"'{key}' has the label {beyond[0]}, the model has the classes 0 to {num - 1}")
        targets[row, list(labels[name])] = 1.0
    if missing:
        raise ValueError(
            f"the labels do not mention {len(missing)} of {targets.shape[0]} pictures, first '{missing[0]}'"
        )
    return Predictions(logits=predictions.logits, targets=targets, keys=predictions.keys)


def _are_labels(labels: object) -> bool:
    return isinstance(labels, list) and all(isinstance(label, int) and not isinstance(label, bool) for label in labels)
