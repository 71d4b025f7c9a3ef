"""Trains and fine-tunes the Flax model on labeled images."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from jax.sharding import Mesh

from vitkit import atomic, models
from vitkit import config as configs
from vitkit.jax.convert import Params
from vitkit.jax.load import FlaxCheckpoint, load, save
from vitkit.jax.step import TrainingConfig, TrainState, logits, losses, make_mesh, make_state, make_step, shard_batch
from vitkit.jax.vit import ViT
from vitkit.models.vit import Config
from vitkit.regular import read_bytes, read_text

Batches = Callable[[int], Iterator[Mapping[str, np.ndarray]]]


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """The trained checkpoint, with the EMA weights if EMA is enabled, and the log of metrics."""

    checkpoint: FlaxCheckpoint
    log: list[dict[str, float]] = field(default_factory=list)


def fit(
    source: Config | FlaxCheckpoint | str | Path,
    batches: Batches,
    training: TrainingConfig,
    *,
    validation: Batches | None = None,
    out: str | Path | None = None,
    devices: Sequence[object] | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
) -> FitResult:
    """Trains a new model from a config, or fine-tunes a checkpoint. `source` may be anything that `load` accepts.

    `batches(step)` returns an iterator of numpy batches from a step on: `images` (b, c, height, width), normalized, and
    `labels`, class indices (b,) or probabilities (b, classes). It is called once, with the number of completed steps.
    `validation(0)` returns the batches of one evaluation. `out` is a run folder with `config.json`, `log.jsonl`,
    `checkpoints/state.msgpack`, and `best/`, the checkpoint with the highest top-1 accuracy, or the last one without
    validation. Training resumes from that folder, bitwise if `batches` is a function of the step. `report` is called
    with each row of the log. Raises ValueError if `out` contains another run, and if the batches end early.
    """
    start = _start(source, training)
    run = _RunFolder(Path(out), training, start.config) if out is not None else None
    model = start.model(dtype=jnp.dtype(training.precision), remat=training.remat)
    mesh = make_mesh(devices)
    state = make_state(start.params, training, mesh)
    log: list[dict[str, float]] = []
    if run is not None:
        state, log = run.resume(state)
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
        if len(row) > 1:
            log.append(row)
            if report is not None:
                report(row)
        if run is not None:
            run.save(state, row, log, replace(start, params=state.best_params))
    return FitResult(checkpoint=replace(start, params=jax.device_get(state.best_params)), log=log)


def evaluate(
    model: ViT, params: Params, batches: Iterator[Mapping[str, np.ndarray]], training: TrainingConfig, mesh: Mesh
) -> dict[str, float]:
    """Returns the metrics `validation_top1` and `validation_loss` on the given batches.

    Batches are padded to be divisible by the number of devices.
    """
    total = np.zeros(3)
    for batch in batches:
        size = batch["labels"].shape[0]
        padding = -size % mesh.size
        padded = {
            name: np.concatenate([batch[name], batch[name][:1].repeat(padding, 0)]) for name in ("images", "labels")
        }
        correct, loss = _evaluate_batch(params, shard_batch(padded, mesh), model=model, training=training)
        total += [np.asarray(correct)[:size].sum(), np.asarray(loss)[:size].sum(), size]
    if total[2] == 0:
        raise ValueError("cannot evaluate: validation returned no batches")
    correct, loss, count = total.tolist()
    return {"validation_top1": correct / count, "validation_loss": loss / count}


def _evaluate_batch_eager(
    params: Params, batch: Mapping[str, jax.Array], *, model: ViT, training: TrainingConfig
) -> tuple[jax.Array, jax.Array]:
    scores = logits(model, params, batch["images"])
    labels = batch["labels"] if batch["labels"].ndim == 1 else batch["labels"].argmax(axis=-1)
    return scores.argmax(axis=-1) == labels, losses(scores, batch["labels"], training)


_evaluate_batch = jax.jit(_evaluate_batch_eager, static_argnames=("model", "training"))


class _RunFolder:
    """Saves and restores a training run in a folder."""

    def __init__(self, folder: Path, training: TrainingConfig, config: Config):
        self.folder = folder
        self.training = training
        self.state = folder / "checkpoints" / "state.msgpack"
        self.log = folder / "log.jsonl"
        text = json.dumps(
            {"backend": "jax", "training": configs.to_dict(training), "model": models.to_dict(config)}, indent=2
        )
        path = folder / "config.json"
        if path.exists() and read_text(path) != text:
            raise ValueError(f"{folder} contains a run with another config.json; choose another folder")
        self.state.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, text)

    def resume(self, state: TrainState) -> tuple[TrainState, list[dict[str, float]]]:
        """Returns the saved training state and log, or the given state and an empty log if nothing is saved."""
        if not self.state.exists():
            return state, []
        saved = serialization.from_bytes({"state": state, "log": ""}, read_bytes(self.state))
        shardings = jax.tree.map(lambda value: value.sharding, state)
        return jax.device_put(saved["state"], shardings), json.loads(saved["log"])

    def save(
        self, state: TrainState, row: dict[str, float], log: list[dict[str, float]], checkpoint: FlaxCheckpoint
    ) -> None:
        """Saves the best checkpoint, the log and the training state if they are due at this step."""
        done = row["step"]
        scores = [each["validation_top1"] for each in log if "validation_top1" in each]
        best = "validation_top1" in row and (self.training.keep == "last" or row["validation_top1"] >= max(scores))
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


def _row(done: int, metrics: Mapping[str, jax.Array], training: TrainingConfig) -> dict[str, float]:
    """Returns the log row of a step, with metrics only if they are due, because reading them waits for the device."""
    row: dict[str, float] = {"step": done}
    return (
        row | {name: float(value) for name, value in metrics.items()}
        if _due(done, training.log_every, training)
        else row
    )


def _due(done: int, every: int, training: TrainingConfig) -> bool:
    return done == training.steps or (every > 0 and done % every == 0)
