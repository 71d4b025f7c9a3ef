"""Trains and fine-tunes the Flax model for single-label classification, multi-label classification or regression."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from jax.sharding import Mesh

from vitkit import atomic, models
from vitkit import config as configs
from vitkit.jax.convert import Params
from vitkit.jax.load import FlaxCheckpoint, load, save
from vitkit.jax.metrics import BEST, Scores
from vitkit.jax.step import TrainingConfig, TrainState, logits, losses, make_mesh, make_state, make_step, shard_batch
from vitkit.jax.vit import ViT
from vitkit.models.vit import Config
from vitkit.regular import read_bytes, read_text
from vitkit.task import Task

Batches = Callable[[int], Iterator[Mapping[str, np.ndarray]]]
# A row of the log: the step, metrics by name, and perhaps the names of unreadable images.
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """The result of `fit`: the trained checkpoint (with the EMA weights if EMA is enabled) and the log of metrics.

    `unreadable` names the images that could not be read; a row of the log has those that are new since the last row.
    """

    checkpoint: FlaxCheckpoint
    log: list[Row] = field(default_factory=list)
    unreadable: tuple[str, ...] = ()


def fit(
    source: Config | FlaxCheckpoint | str | Path,
    batches: Batches,
    training: TrainingConfig,
    *,
    validation: Batches | None = None,
    out: str | Path | None = None,
    devices: Sequence[object] | None = None,
    report: Callable[[Row], None] | None = None,
    unreadable: Callable[[], Iterable[str]] = tuple,
) -> FitResult:
    """Trains a new model if `source` is a config. Fine-tunes `source` if it is a checkpoint, its path or its Hub id.

    `batches(step)` returns an iterator of numpy batches from a step on: `images` (b, c, height, width), normalized, and
    `labels`, class indices (b,), probabilities (b, classes), or for a regression targets in their own units. It is
    called once, with the number of completed steps. `validation(0)` returns the batches of one evaluation. `out` is a
    run folder with `config.json`, `log.jsonl`, `checkpoints/state.msgpack`, and `best/`, the checkpoint with the
    highest top-1 accuracy (or see `metrics.BEST`), or the last one without validation. Training resumes from that
    folder, bitwise if `batches` is a function of the step. `report` is called with each row of the log. `unreadable`
    returns the names of all unreadable images so far, for the log. Raises ValueError if `out` contains another run, if
    the loss does not fit the task of the model, and if the batches end early.
    """
    start = _start(source, training)
    _check_loss(start.config.task, training)
    run = _RunFolder(Path(out), training, start.config) if out is not None else None
    model = start.model(dtype=jnp.dtype(training.precision), remat=training.remat)
    mesh = make_mesh(devices)
    state = make_state(start.params, training, mesh)
    log: list[Row] = []
    if run is not None:
        state, log = run.resume(state)
    named = dict.fromkeys(name for row in log for name in row.get("unreadable", ()))
    step = make_step(model, training, mesh)
    done = int(state.step)
    stream = batches(done)
    while done < training.steps:
        batch = next(stream, None)
        if batch is None:
            raise ValueError(
                f"the iterator of batches ended after {done} of {training.steps} steps; it must be endless"
            )
        state, metrics = step(state, shard_batch(batch, mesh))
        done += 1
        row = _row(done, metrics, training)
        if validation is not None and _due(done, training.evaluate_every, training):
            row |= evaluate(model, state.best_params, validation(0), training, mesh)
        if new := [name for name in dict.fromkeys(unreadable()) if name not in named]:
            named |= dict.fromkeys(new)
            row["unreadable"] = new
        if len(row) > 1:
            log.append(row)
            if report is not None:
                report(row)
        if run is not None:
            run.save(state, row, log, replace(start, params=state.best_params))
    trained = replace(start, params=jax.device_get(state.best_params))
    return FitResult(checkpoint=trained, log=log, unreadable=tuple(named))


def evaluate(
    model: ViT, params: Params, batches: Iterator[Mapping[str, np.ndarray]], training: TrainingConfig, mesh: Mesh
) -> dict[str, float]:
    """Returns `validation_loss` and the metrics of the task on the given batches.

    They are `validation_top1` for classes, `validation_map` and `validation_f1` for independent labels, and
    `validation_r2`, `validation_mae` and `validation_rmse` for a regression. Batches are padded to be divisible by the
    number of devices.
    """
    scores = Scores(model.config.task)
    for batch in batches:
        size = batch["labels"].shape[0]
        padding = -size % mesh.size
        padded = {
            name: np.concatenate([batch[name], batch[name][:1].repeat(padding, 0)]) for name in ("images", "labels")
        }
        found, loss = _evaluate_batch(params, shard_batch(padded, mesh), model=model, training=training)
        scores.add(np.asarray(found)[:size], np.asarray(batch["labels"]), np.asarray(loss)[:size])
    return scores.metrics()


def _evaluate_batch_eager(
    params: Params, batch: Mapping[str, jax.Array], *, model: ViT, training: TrainingConfig
) -> tuple[jax.Array, jax.Array]:
    scores = logits(model, params, batch["images"]).astype(jnp.float32)
    return scores, losses(scores, batch["labels"], training, model.config.task)


_evaluate_batch = jax.jit(_evaluate_batch_eager, static_argnames=("model", "training"))


class _RunFolder:
    """Saves and restores a training run in a folder."""

    def __init__(self, folder: Path, training: TrainingConfig, config: Config):
        self.folder = folder
        self.training = training
        self.metric = BEST[config.task.problem_type][0]
        self.state = folder / "checkpoints" / "state.msgpack"
        self.log = folder / "log.jsonl"
        text = json.dumps(
            {"backend": "jax", "training": configs.to_dict(training), "model": models.to_dict(config)}, indent=2
        )
        path = folder / "config.json"
        if path.exists() and read_text(path) != text:
            raise ValueError(f"{folder} contains a run with a different config.json; choose another folder")
        self.state.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, text)

    def resume(self, state: TrainState) -> tuple[TrainState, list[Row]]:
        """Returns the saved training state and log, or the given state and an empty log if nothing is saved."""
        if not self.state.exists():
            return state, []
        saved = serialization.from_bytes({"state": state, "log": ""}, read_bytes(self.state))
        shardings = jax.tree.map(lambda value: value.sharding, state)
        return jax.device_put(saved["state"], shardings), json.loads(saved["log"])

    def save(self, state: TrainState, row: Row, log: list[Row], checkpoint: FlaxCheckpoint) -> None:
        """Saves the best checkpoint, the log and the training state if they are due at this step."""
        done = row["step"]
        scores = [each[self.metric] for each in log if self.metric in each]
        best = self.metric in row and (self.training.keep == "last" or row[self.metric] >= max(scores))
        if best or (not scores and done == self.training.steps):
            save(self.folder / "best", replace(checkpoint, params=jax.device_get(checkpoint.params)), overwrite=True)
        if len(row) > 1:
            atomic.write_text(self.log, "".join(json.dumps(each) + "\n" for each in log))
        if _due(int(done), self.training.checkpoint_every, self.training):
            # The log is saved with the state, so that a resumed run does not repeat rows.
            data = serialization.to_bytes({"state": jax.device_get(state), "log": json.dumps(log)})
            atomic.write_bytes(self.state, data)


def _start(source: Config | FlaxCheckpoint | str | Path, training: TrainingConfig) -> FlaxCheckpoint:
    if isinstance(source, FlaxCheckpoint):
        return source
    if not isinstance(source, Config):
        return load(source)
    images = jnp.zeros((1, *source.image_size, source.channels))
    params = jax.jit(ViT(source).init)(jax.random.key(training.seed), images)["params"]
    return FlaxCheckpoint(config=source, params=params)


def _check_loss(task: Task, training: TrainingConfig) -> None:
    """Raises ValueError if the loss does not match the problem type of the model."""
    independent = task.problem_type == "multi_label_classification"
    if (training.loss == "mse") != task.regression or (independent and training.loss != "sigmoid"):
        expected = {"regression": "mse", "multi_label_classification": "sigmoid"}.get(task.problem_type, "softmax")
        raise ValueError(
            f"loss='{training.loss}' does not fit the model, whose task.problem_type is '{task.problem_type}'; "
            f"use loss='{expected}'"
        )


def _row(done: int, metrics: Mapping[str, jax.Array], training: TrainingConfig) -> Row:
    """Returns the log row of a step. Metrics are included only if due, because reading them waits for the device."""
    row: Row = {"step": done}
    return (
        row | {name: float(value) for name, value in metrics.items()}
        if _due(done, training.log_every, training)
        else row
    )


def _due(done: int, every: int, training: TrainingConfig) -> bool:
    return done == training.steps or (every > 0 and done % every == 0)
