"""What is wrong with a run is said before anything is computed."""

import shutil
from pathlib import Path

import torch

from vitkit import evaluate, models
from vitkit.data import Source
from vitkit.train.run import Run


def check(run: Run, source: Source) -> None:
    """Raises ValueError where model, processor, optimiser and pictures do not fit together."""
    classes = len(source.classes)
    if run.model.num_classes != classes:
        raise ValueError(f"the model has {run.model.num_classes} classes, '{run.data.source}' has {classes}")
    if run.model.channels != run.processor.channels:
        raise ValueError(f"the model takes {run.model.channels} channels, the processor gives {run.processor.channels}")
    if tuple(run.model.image_size) != tuple(run.processor.size):
        raise ValueError(f"the model takes images of {run.model.image_size}, the processor gives {run.processor.size}")
    for name in run.evaluators:
        evaluate.evaluator(name)
    refuse_labels(source)


def refuse_labels(source: Source) -> None:
    """Raises ValueError for a label that is none of the classes; -1 stands for no label."""
    classes = len(source.classes)
    for index in range(len(source)):
        label = source.label(index)
        for number in label if isinstance(label, tuple) else (label,):
            if not -1 <= number < classes:
                raise ValueError(f"picture {index} has the label {number}, but there are {classes} classes, from 0")


def refuse_full_disk(run: Run, folder: Path) -> None:
    """Raises ValueError where the states and the models of a run will not fit on the disk of its folder.

    A state holds the weights and up to two moments of each, and perhaps their mean; one more is there while it is
    written.
    """
    weights = 4 * sum(each.numel() for each in models.build(run.model, device="meta").parameters())
    needed = weights * (3 + (run.average is not None)) * (run.machine.keep + 1) + 2 * weights
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(f"the run needs about {needed / 1e9:.2f} GB in '{folder}', and {free / 1e9:.2f} GB are free")


def refuse_pairs(run: Run, device: torch.device) -> None:
    """Raises ValueError for settings that do not go together."""
    if run.precision == "float16" and device.type != "cuda":
        raise ValueError(f"float16 trains on a GPU only, not on {device.type}: use bfloat16 or float32")
    if run.machine.parallel == "fsdp":
        for name, given in (
            ("optimizer.name=muon, which needs whole matrices", run.optimizer.name == "muon"),
            ("LoRA", run.tune.lora_rank > 0),
            ("float16", run.precision == "float16"),
        ):
            if given:
                raise ValueError(f"fsdp does not go with {name}: use ddp")
