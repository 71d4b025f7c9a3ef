"""A `Run` of `vitkit.train` on the twin: the same recipe, data, order of samples and seeds, trained by JAX."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch

from vitkit import config as configs
from vitkit import models
from vitkit.data import train_and_val
from vitkit.data.augment import Transform
from vitkit.data.loader import Batch, Stream, evaluation_batches, training_batches
from vitkit.jax.convert import nest, to_flax
from vitkit.jax.fit import Fitted, fit
from vitkit.jax.load import FlaxCheckpoint, load
from vitkit.jax.step import Plan
from vitkit.models import vit
from vitkit.objectives import supervised
from vitkit.train import Run
from vitkit.train.checks import check
from vitkit.train.tuning import Tuning

# What the twin has a word for; all else must be as it is where nothing is said.
KNOWN = {
    "objective": ("loss", "label_smoothing"),
    "optimizer": ("name", "lr", "weight_decay", "decay", "betas", "momentum", "clip"),
    "schedule": ("decay", "warmup", "end", "timescale"),
}


def train(run: Run, folder: str | Path, *, report: Callable[[dict[str, float]], None] | None = None) -> Fitted:
    """Trains a run in its folder, or goes on where it was stopped; `best/` opens on both sides.

    `report` is called with each row of the log. Raises ValueError before anything is computed for what the twin cannot
    do: another family than the plain ViT, another objective than the supervised one, and what `plan` refuses.
    """
    training, validation = train_and_val(
        run.data.source, val=run.data.val, held_out=run.data.held_out, seed=run.data.split_seed
    )
    check(run, training)
    numbers = plan(run, run.total_steps(len(training)))
    stream = Stream(batch_size=run.batch_size, seed=run.seed, workers=run.hardware.workers)

    def batches(step: int) -> Iterator[Mapping[str, np.ndarray]]:
        transform = Transform(run.processor, run.augment)
        consumed = step * run.batch_size
        return map(arrays, training_batches(training, transform, stream, consumed=consumed))

    def held_out(step: int) -> Iterator[Mapping[str, np.ndarray]]:
        transform = Transform(run.processor)
        return map(arrays, evaluation_batches(validation, transform, batch_size=run.batch_size))

    begin = start(run, training.classes)
    return fit(begin, batches, numbers, validation=held_out, out=folder, report=report)


def start(run: Run, classes: tuple[str, ...]) -> FlaxCheckpoint:
    """The weights that a run starts from, with its processor and class names: fresh ones, or a checkpoint's."""
    if run.init_from is None:
        begin = fresh(run.model, run.seed)
    else:
        begin = load(run.init_from).with_head(len(classes)).with_image_size(tuple(run.model.image_size))
        if begin.config != run.model:
            raise ValueError(
                f"'{run.init_from}' is of another architecture than the run: {begin.config} and {run.model}"
            )
    return replace(begin, processor=run.processor, labels=classes)


def fresh(config: vit.Config, seed: int) -> FlaxCheckpoint:
    """New weights, the same as the PyTorch twin draws from that seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = models.build(config).state_dict()
    return FlaxCheckpoint(config=config, params=nest(to_flax(state, config.num_heads)))


def plan(run: Run, steps: int) -> Plan:
    """The numbers of a run as the twin's `Plan`; ValueError that names every setting it has no word for."""
    refuse(run)
    optimizer, schedule = run.optimizer, run.schedule
    # Here decay is multiplied by the rate, as in the paper; big_vision's is relative to the peak.
    decay = optimizer.weight_decay / (1.0 if optimizer.decay == "lr" else optimizer.lr)
    return configs.from_dict(
        Plan,
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
            "average": run.ema,
            "precision": run.precision,
            "remat": run.hardware.activation_checkpointing,
            "seed": run.seed,
            "keep": run.select,
            "log_every": run.hardware.log_every,
            "evaluate_every": run.evaluate_every,
            "checkpoint_every": run.hardware.save_every,
        },
    )


def refuse(run: Run) -> None:
    """Raises ValueError that names every setting of a run that the twin does not have."""
    optimizer, schedule = run.optimizer, run.schedule
    settings = {
        f"model of the family {models.family_of(run.model)}": type(run.model) is not vit.Config,
        "objective but the supervised one": not isinstance(run.objective, supervised.Config),
        f"optimizer.name={optimizer.name}": optimizer.name not in ("adamw", "sgd"),
        "weight decay with sgd": optimizer.name == "sgd" and optimizer.weight_decay != 0.0,
        f"schedule.decay={schedule.decay}": schedule.decay == "rsqrt",
        **{words: True for part in KNOWN for words in unknown(run, part)},
        f"init_head={run.init_head}": run.init_head != "zeros",
        "tuning": run.tuning != Tuning(),
        "precision=float16": run.precision == "float16",
        f"metric={run.metric}": run.metric != "top1.accuracy" and run.select == "best",
        f"hardware.parallel={run.hardware.parallel}": run.hardware.parallel != "none",
        "hardware.loggers": bool(run.hardware.loggers),
    }
    refused = [name for name, given in settings.items() if given]
    if refused:
        raise ValueError(f"the JAX backend has no {', no '.join(refused)}: use --backend torch")


def unknown(run: Run, part: str) -> Iterator[str]:
    """The fields of a part of a run that the twin has no word for, where they are not at their defaults."""
    config = getattr(run, part)
    if part == "objective" and not isinstance(config, supervised.Config):
        return
    for each in fields(config):
        value = getattr(config, each.name)
        if each.name not in KNOWN[part] and value != each.default:
            yield f"{part}.{each.name}" + ("" if isinstance(value, tuple) else f"={value}")


def arrays(batch: Batch) -> dict[str, np.ndarray]:
    """A batch of the loader as numpy: labels are shares of classes, so that mixing and smoothing carry over."""
    return {"images": batch.images.numpy(), "labels": batch.targets.numpy()}
