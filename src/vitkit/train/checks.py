"""What is wrong with a run is said before anything is computed."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitkit import evaluate, models
from vitkit.data import Source
from vitkit.train.run import Run


def check(run: Run, source: Source, validation: Source | None = None) -> None:
    """Raises ValueError where model, processor, objective, pictures and those to judge by do not fit together."""
    classes = len(source.classes)
    if run.model.num_classes != classes:
        raise ValueError(f"the model has {run.model.num_classes} classes, '{run.data.source}' has {classes}")
    if run.model.channels != run.processor.channels:
        raise ValueError(f"the model takes {run.model.channels} channels, the processor gives {run.processor.channels}")
    if tuple(run.model.image_size) != tuple(run.processor.size):
        raise ValueError(f"the model takes images of {run.model.image_size}, the processor gives {run.processor.size}")
    for name in run.evaluators:
        evaluate.evaluator(name)
    refuse_remainder(run.model)
    refuse_other_numbers(run)
    learned = refuse_labels(source)
    if validation is not None:
        refuse_untaught(learned, refuse_labels(validation, "held-out picture"), source.classes)
    if getattr(run.objective, "loss", None) == "softmax":
        refuse_several(source)


def refuse_remainder(model: Any) -> None:
    """Raises ValueError for pictures that are no whole number of patches: the model would not see their edge."""
    for side, patch in zip(model.image_size, getattr(model, "patch_size", model.image_size), strict=True):
        if side % patch:
            near = max(patch, round(side / patch) * patch)
            raise ValueError(f"images of {side} pixels are not a multiple of the patch size {patch}; {near} is")


def refuse_other_numbers(run: Run) -> None:
    """Raises ValueError for an objective that counts colours, or epochs, otherwise than its run does."""
    objective: Any = run.objective
    numbers = getattr(objective, "colours", None) or objective
    for name in ("mean", "std"):
        given, wanted = getattr(numbers, name, None), getattr(run.processor, name)
        if given is not None and len(given) == len(wanted) and not np.allclose(given, wanted, atol=1e-4):
            raise ValueError(
                f"the objective counts colours by the {name} {_short(given)}, the processor by {_short(wanted)}: they "
                "must be equal"
            )
    epochs = getattr(objective, "epochs", None)
    if epochs is not None and run.epochs is not None and epochs != run.epochs:
        raise ValueError(f"objective.epochs is {epochs:g} and the run's epochs are {run.epochs:g}: they must be equal")


def _short(numbers: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{number:.4g}" for number in numbers) + ")"


def refuse_untaught(learned: set[int], judged: set[int], classes: tuple[str, ...]) -> None:
    """Raises ValueError for classes that are judged on and have no training picture."""
    lacking = sorted(judged - learned)
    if lacking and learned:
        shown = ", ".join(classes[number] for number in lacking[:5])
        more = f" and {len(lacking) - 5} more" if lacking[5:] else ""
        raise ValueError(f"there is no training picture of {shown}{more}, which the model is judged on")


def with_several(source: Source) -> int | None:
    """The first picture with several labels, if there is one."""
    labels = (source.label(index) for index in range(len(source)))
    return next((index for index, label in enumerate(labels) if isinstance(label, tuple) and len(label) > 1), None)


def refuse_several(source: Source) -> None:
    """Raises ValueError for pictures with several labels where one class is to be right."""
    index = with_several(source)
    label = None if index is None else source.label(index)
    if isinstance(label, tuple):
        names = ", ".join(source.classes[number] for number in label[:3])
        raise ValueError(f"picture {index} has several labels ({names}): set objective.loss=sigmoid")


def refuse_labels(source: Source, what: str = "picture") -> set[int]:
    """The classes that have pictures; ValueError for a label that is none of the classes; -1 stands for no label."""
    classes, found = len(source.classes), set()
    for index in range(len(source)):
        label = source.label(index)
        for number in label if isinstance(label, tuple) else (label,):
            if not -1 <= number < classes:
                raise ValueError(f"{what} {index} has the label {number}, but there are {classes} classes, from 0")
            found.add(number)
    return found - {-1}


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
    if run.machine.keep < 2:
        raise ValueError(
            f"machine.keep is {run.machine.keep}; it must be at least 2: the last state may be a damaged one"
        )
    if run.precision == "float16" and device.type != "cuda":
        raise ValueError(f"float16 trains on a GPU only, not on {device.type}: use bfloat16 or float32")
    if run.start_head == "kept" and getattr(run.objective, "head_bias", None) is not None:
        raise ValueError("start_head=kept goes on with the biases of the head, and objective.head_bias replaces them")
    if run.optimizer.name == "lamb" and _starts_at_zero(run):
        raise ValueError(
            "lamb moves a tensor by shares of its own length, and this run's head starts at zero: "
            + ("set model.init=truncated" if run.start is None else "set start_head=drawn")
        )
    if run.machine.parallel == "fsdp":
        for name, given in (
            ("optimizer.name=muon, which needs whole matrices", run.optimizer.name == "muon"),
            ("LoRA", run.tune.lora_rank > 0),
            ("float16", run.precision == "float16"),
        ):
            if given:
                raise ValueError(f"fsdp does not go with {name}: use ddp")


def _starts_at_zero(run: Run) -> bool:
    """Whether the head is zeros before the first step."""
    if run.start is not None:
        return run.start_head == "new"
    return getattr(run.model, "init", "") == "jax" and run.model.num_classes > 0
