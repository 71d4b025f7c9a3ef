"""Trains a `vitkit.training.Run` with JAX instead of PyTorch.

The data, the order of samples and the initial weights are the same as in training with PyTorch.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch

from vitkit import config as configs
from vitkit import models
from vitkit.data import train_and_val
from vitkit.data.augment import Transform
from vitkit.data.fixes import fixed_splits
from vitkit.data.loader import Batch, Stream, check_readable, evaluation_batches, training_batches
from vitkit.data.unreadable import Unreadable, check_skipped, check_unreadable
from vitkit.jax.convert import nest, to_flax
from vitkit.jax.fit import FitResult, Row, fit
from vitkit.jax.load import FlaxCheckpoint, load
from vitkit.jax.metrics import BEST
from vitkit.jax.step import TrainingConfig
from vitkit.models import vit
from vitkit.objectives import supervised
from vitkit.training import Run
from vitkit.training.checks import check
from vitkit.training.plan import EVALUATIONS
from vitkit.training.targets import with_task
from vitkit.training.tuning import Tuning
from vitkit.training.undo import undone

# Supported fields of the parts of a run; others must have their default values.
SUPPORTED = {
    "objective": ("loss", "label_smoothing"),
    "optimizer": ("name", "lr", "weight_decay", "decay", "betas", "momentum", "clip"),
    "schedule": ("decay", "warmup", "end", "timescale"),
}


def train(run: Run, folder: str | Path, *, report: Callable[[Row], None] | None = None) -> FitResult:
    """Starts or resumes a run in a folder. Both PyTorch and JAX can load the checkpoint in `best/`.

    If `evaluate_every` is None, the run is evaluated ten times. If the run fails before its first step, the folder is
    restored. `report` is called with each row of the log. The log lists unreadable images. Raises ValueError before
    training if a setting is unsupported, such as a model family other than the plain ViT or an objective other than
    supervised classification.
    """
    training, validation = train_and_val(
        run.data.source, val=run.data.val, held_out=run.data.held_out, seed=run.data.split_seed
    )
    if run.minutes is not None:
        raise ValueError(
            f"minutes is {run.minutes:g}, which the JAX backend does not support; set steps or epochs, or use "
            "--backend torch"
        )
    training, validation = fixed_splits(training, validation, run.data.fixes)
    run = with_task(run, training)
    config = training_config(run, run.total_steps(len(training)))
    check(run, training, validation)
    for what, each in (("training", training), ("validation", validation)):
        check_skipped(each, run.data.max_unreadable)
        check_readable(each, Transform(run.processor, limits=run.data.limits), what)
    stream = Stream(batch_size=run.batch_size, seed=run.seed, workers=run.hardware.workers)
    unreadable = Unreadable(len(validation), run.data.max_unreadable)
    named = dict.fromkeys(f"training data: {name}" for name in training.skipped)
    if validation.skipped != training.skipped:  # not those of one folder, which was split
        named |= dict.fromkeys(f"validation data: {name}" for name in validation.skipped)

    def batches(step: int) -> Iterator[Mapping[str, np.ndarray]]:
        transform = Transform(run.processor, run.augment, run.data.limits)
        consumed = step * run.batch_size
        found = training_batches(training, transform, stream, consumed=consumed)
        return map(to_numpy, count_unreadable(found, run.data.max_unreadable, consumed, named))

    def validation_batches(step: int) -> Iterator[Mapping[str, np.ndarray]]:
        transform = Transform(run.processor, limits=run.data.limits)
        return map(
            to_numpy, evaluation_batches(validation, transform, batch_size=run.batch_size, unreadable=unreadable)
        )

    def names() -> Iterable[str]:
        return (*named, *(f"validation {image}" for image in unreadable.images))

    initial = initial_checkpoint(run, training.classes)
    rows: list[Row] = []

    def on_row(row: Row) -> None:
        rows.append(row)
        if report is not None:
            report(row)

    out = Path(folder)
    with undone(out, lambda: bool(rows) or (out / "checkpoints" / "state.msgpack").exists(), (out / "config.json",)):
        return fit(initial, batches, config, validation=validation_batches, out=folder, report=on_row, unreadable=names)


def initial_checkpoint(run: Run, classes: tuple[str, ...]) -> FlaxCheckpoint:
    """Returns the initial weights of a run, randomly initialized or loaded, with the processor and labels."""
    if run.init_from is None:
        initial = random_checkpoint(run.model, run.seed)
    else:
        initial = load(run.init_from, channels=run.model.channels)
        initial = initial.with_head(len(classes)).with_image_size(tuple(run.model.image_size))
        initial = replace(initial, config=replace(initial.config, task=run.model.task))
        if initial.config != run.model:
            raise ValueError(
                f"the model config of '{run.init_from}' is {initial.config}; expected that of the run, {run.model}"
            )
    return replace(initial, processor=run.processor, labels=classes)


def random_checkpoint(config: vit.Config, seed: int) -> FlaxCheckpoint:
    """Returns randomly initialized weights, equal to those of the PyTorch model for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = models.build(config).state_dict()
    return FlaxCheckpoint(config=config, params=nest(to_flax(state, config.num_heads)))


def training_config(run: Run, steps: int) -> TrainingConfig:
    """Converts a run config to a `TrainingConfig`. Raises ValueError for unsupported settings."""
    check_supported(run)
    optimizer, schedule = run.optimizer, run.schedule
    # JAX multiplies the decay by the learning rate, as the paper does; in big_vision it is relative to the peak.
    decay = optimizer.weight_decay / (1.0 if optimizer.decay == "lr" else optimizer.lr)
    return configs.from_dict(
        TrainingConfig,
        {
            "steps": steps,
            "learning_rate": optimizer.lr,
            "warmup_steps": schedule.warmup,
            "schedule": schedule.decay,
            "final_learning_rate": schedule.end * optimizer.lr if schedule.decay in ("cosine", "linear") else 0.0,
            "optimizer": optimizer.name,
            "betas": optimizer.betas,
            "momentum": optimizer.momentum,
            "weight_decay": decay,
            "clip": optimizer.clip,
            "loss": run.objective.loss,
            "label_smoothing": run.objective.label_smoothing,
            "accumulate": run.grad_accum_steps,
            "ema": run.ema,
            "precision": run.precision,
            "remat": run.hardware.activation_checkpointing,
            "seed": run.seed,
            "keep": run.select,
            "log_every": run.hardware.log_every,
            "evaluate_every": run.evaluate_every or max(1, steps // EVALUATIONS),
            "checkpoint_every": run.hardware.save_every,
        },
    )


def check_supported(run: Run) -> None:
    """Raises a ValueError that lists all settings of a run config that the JAX backend does not support."""
    optimizer, schedule = run.optimizer, run.schedule
    settings = {
        f"models of the family {models.family_of(run.model)}": type(run.model) is not vit.Config,
        "objectives other than supervised": not isinstance(run.objective, supervised.Config),
        f"optimizer.name={optimizer.name}": optimizer.name not in ("adamw", "sgd"),
        "weight decay with sgd": optimizer.name == "sgd" and optimizer.weight_decay != 0.0,
        f"schedule.decay={schedule.decay}": schedule.decay == "rsqrt",
        **{setting: True for part in SUPPORTED for setting in unsupported_settings(run, part)},
        f"init_head={run.init_head}": run.init_head != "zeros",
        "patience": run.patience is not None,
        "tune_threshold": run.tune_threshold,
        "tuning": run.tuning != Tuning(),
        "precision=float16": run.precision == "float16",
        f"metric={run.metric}": run.metric != BEST[run.model.task.problem_type][1] and run.select == "best",
        f"hardware.parallel={run.hardware.parallel}": run.hardware.parallel != "none",
        "hardware.loggers": bool(run.hardware.loggers),
    }
    unsupported = [name for name, is_set in settings.items() if is_set]
    if unsupported:
        raise ValueError(f"the JAX backend does not support {', '.join(unsupported)}; use --backend torch")


def unsupported_settings(run: Run, part: str) -> Iterator[str]:
    """Yields the unsupported settings in one part of a run config that differ from their defaults."""
    config = getattr(run, part)
    if part == "objective" and not isinstance(config, supervised.Config):
        return
    for each in fields(config):
        value = getattr(config, each.name)
        if each.name not in SUPPORTED[part] and value != each.default:
            yield f"{part}.{each.name}" + ("" if isinstance(value, tuple) else f"={value}")


def count_unreadable(batches: Iterable[Batch], limit: float, consumed: int, named: dict[str, None]) -> Iterator[Batch]:
    """Yields the batches unchanged, and adds the names of unreadable images to `named`.

    Raises TooManyUnreadable if too many training images cannot be read.
    """
    number = 0
    for batch in batches:
        number, consumed = number + len(batch.unreadable), consumed + len(batch.keys)
        named |= dict.fromkeys(f"training {image}" for image in batch.unreadable)
        if batch.unreadable:
            check_unreadable(number, consumed, limit, str(batch.unreadable[0]))
        yield batch


def to_numpy(batch: Batch) -> dict[str, np.ndarray]:
    """Converts a batch to numpy arrays. Labels are class probabilities (also of Mixup and CutMix) or targets."""
    return {"images": batch.images.numpy(), "labels": batch.targets.numpy()}
