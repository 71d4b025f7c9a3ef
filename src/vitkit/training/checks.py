"""Validation of a run before training starts."""

import shutil
from pathlib import Path

import numpy as np
import torch

from vitkit import distributed, evaluation, memory, models
from vitkit.checkpoints.bounds import check_requested
from vitkit.config import AnyConfig
from vitkit.data import Source
from vitkit.evaluation import requirements
from vitkit.training.run import Run
from vitkit.training.targets import first_multilabel


def check(run: Run, source: Source, validation: Source | None = None) -> None:
    """Raises ValueError if the model, processor, objective and data of a run do not match."""
    classes = len(source.classes)
    if run.model.num_classes != classes:
        raise ValueError(
            f"the model has {run.model.num_classes} classes, but the data source '{run.data.source}' has {classes} "
            f"classes; set model.num_classes={classes}"
        )
    if run.model.channels != run.processor.channels:
        raise ValueError(
            f"the model has {run.model.channels} input channels, but the processor has {run.processor.channels} "
            "channels; they must be equal"
        )
    if tuple(run.model.image_size) != tuple(run.processor.size):
        raise ValueError(
            f"the model has image_size {run.model.image_size}, but the processor has size {run.processor.size}; they "
            "must be equal"
        )
    evaluation.check_task(run.evaluators, run.model.task)
    if source.regression and (features := [each for each in run.evaluators if evaluation.reads(each) != "predictions"]):
        raise ValueError(
            f"the evaluator '{features[0]}' needs classes, but the targets of the data source '{run.data.source}' are "
            "numbers"
        )
    if run.tune_threshold and run.model.task.function(classes) != "sigmoid":
        raise ValueError("tune_threshold needs a multi-label run (objective.loss=sigmoid); set tune_threshold=false")
    for name in run.evaluators:
        if evaluation.needs_labels(name) and not source.classes:
            raise ValueError(
                f"the evaluator '{name}' needs labels, but the data source '{run.data.source}' has none; "
                'set evaluators=["rank"] metric=rank.effective'
            )
    if validation is not None:
        check_evaluators(run, source, validation)
    check_patch_size(run.model)
    check_objective(run)
    trained = check_labels(source)
    if validation is not None:
        check_classes(trained, check_labels(validation, "validation image"), source.classes)
    if getattr(run.objective, "loss", None) == "softmax":
        if run.model.task.problem_type == "multi_label_classification":
            raise ValueError("the softmax loss does not fit a multi-label model; set objective.loss=sigmoid")
        check_single_label(source)


def check_evaluators(run: Run, source: Source, validation: Source) -> None:
    """Raises ValueError if an evaluator does not fit the data, or if no evaluator computes the metric of the run."""
    model = models.build(run.model, device="meta")
    data = requirements.EvaluationData(model, validation, source, run.processor)
    requirements.check_metric(run.metric, requirements.check(data, run.evaluators), data)


def check_patch_size(model: AnyConfig) -> None:
    """Raises ValueError if the image size of the model is too large or not a multiple of the patch size."""
    check_requested(tuple(model.image_size))
    for side, patch in zip(model.image_size, getattr(model, "patch_size", model.image_size), strict=True):
        if side % patch:
            near = max(patch, round(side / patch) * patch)
            raise ValueError(f"image_size {side} is not a multiple of patch_size {patch}; use {near}")


def check_objective(run: Run) -> None:
    """Raises ValueError if mean, std or number of epochs of the objective differ from those of the run."""
    objective = run.objective
    numbers = getattr(objective, "colors", None) or objective
    for name in ("mean", "std"):
        given, wanted = getattr(numbers, name, None), getattr(run.processor, name)
        if given is not None and len(given) == len(wanted) and not np.allclose(given, wanted, atol=1e-4):
            raise ValueError(
                f"the objective's {name} is {_short(given)}, but the processor's is {_short(wanted)}; they must "
                "be equal"
            )
    epochs = getattr(objective, "epochs", None)
    if epochs is not None and run.epochs is not None and epochs != run.epochs:
        raise ValueError(f"objective.epochs is {epochs:g}, but the run has {run.epochs:g} epochs; they must be equal")


def _short(numbers: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{number:.4g}" for number in numbers) + ")"


def check_classes(trained: set[int], evaluated: set[int], classes: tuple[str, ...]) -> None:
    """Raises ValueError if a class of the validation data has no training images."""
    missing = sorted(evaluated - trained)
    if missing and trained:
        shown = ", ".join(classes[number] for number in missing[:5])
        more = f" and {len(missing) - 5} more" if missing[5:] else ""
        raise ValueError(
            f"the classes {shown}{more} have validation images, but no training images; add training images"
        )


def check_labels(source: Source, what: str = "image") -> set[int]:
    """Returns the indices of classes with images. Raises ValueError for labels out of range (-1 means no label)."""
    classes, found = len(source.classes), set()
    for index in range(len(source)):
        label = source.label(index)
        for number in label if isinstance(label, tuple) else (label,):
            if not -1 <= number < classes:
                raise ValueError(f"{what} {index} has the label {number}, but the classes are 0 to {classes - 1}")
            found.add(number)
    return found - {-1}


def check_single_label(source: Source) -> None:
    """Raises ValueError if an image has several labels, because the softmax loss needs one label."""
    index = first_multilabel(source)
    label = None if index is None else source.label(index)
    if isinstance(label, tuple):
        names = ", ".join(source.classes[number] for number in label[:3])
        raise ValueError(
            f"image {index} has several labels ({names}), but the softmax loss needs one; set objective.loss=sigmoid"
        )


def check_disk_space(run: Run, folder: Path) -> None:
    """Raises ValueError if the disk lacks space for the checkpoints and models of a run.

    A checkpoint holds the weights, up to two moments of each and perhaps their average. During a save there is one
    checkpoint more than `keep_checkpoints`.
    """
    weights = 4 * sum(each.numel() for each in models.build(run.model, device="meta").parameters())
    needed = weights * (3 + (run.ema is not None)) * (run.hardware.keep_checkpoints + 1) + 2 * weights
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"the run needs about {needed / 1e9:.2f} GB in the folder '{folder}', but only {free / 1e9:.2f} GB are "
            "free; free disk space or choose another folder"
        )


def check_batch_memory(run: Run) -> None:
    """Raises ValueError if the images of one batch need more memory than this machine has."""
    height, width = run.processor.size
    needed = 4 * run.batch_size * run.processor.channels * height * width // distributed.world_size()
    available = memory.total()
    if available and needed > available:
        raise ValueError(
            f"batch_size is {run.batch_size}, but the images of one batch need {needed / 1e9:,.0f} GB and this machine "
            f"has {available / 1e9:,.0f} GB of memory; set a smaller batch_size"
        )


def check_settings(run: Run, device: torch.device) -> None:
    """Raises ValueError if settings of the run cannot be combined with each other or with the device."""
    check_batch_memory(run)
    if run.hardware.keep_checkpoints < 2:
        raise ValueError(
            f"hardware.keep_checkpoints is {run.hardware.keep_checkpoints}; it must be at least 2, because the newest "
            "checkpoint may be damaged"
        )
    if run.precision == "float16" and device.type != "cuda":
        raise ValueError(f"float16 training needs a GPU, but the device is {device.type}; use bfloat16 or float32")
    if run.init_head == "checkpoint" and getattr(run.objective, "head_bias", None) is not None:
        raise ValueError(
            "init_head=checkpoint loads the head's bias, and objective.head_bias would overwrite it; set only one of "
            "them"
        )
    if run.optimizer.name == "lamb" and _head_starts_at_zero(run):
        raise ValueError(
            "lamb scales an update by the norm of its tensor, but the head of this run is initialized to zero; "
            + ("set model.init=truncated" if run.init_from is None else "set init_head=random")
        )
    if run.hardware.parallel == "fsdp":
        for name, given in (
            ("optimizer.name=muon, which needs unsharded matrices", run.optimizer.name == "muon"),
            ("LoRA", run.tuning.lora_rank > 0),
            ("float16", run.precision == "float16"),
        ):
            if given:
                raise ValueError(f"fsdp does not support {name}; use ddp")


def _head_starts_at_zero(run: Run) -> bool:
    if run.init_from is not None:
        return run.init_head == "zeros"
    return getattr(run.model, "init", "") == "jax" and run.model.num_classes > 0
