"""Supervised training and fine-tuning of the twin: what `vitkit train --backend jax` calls."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from vitkit.jax.load import FlaxCheckpoint, load, save
from vitkit.jax.step import Plan, TrainState, logits, losses, make_mesh, make_state, make_step, place_batch
from vitkit.jax.vit import ViT
from vitkit.models.vit import Config

Batches = Callable[[int], Iterator[Mapping[str, np.ndarray]]]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a run gives: the weights (averaged where the plan says so), and its log, one row of numbers a report."""

    checkpoint: FlaxCheckpoint
    log: list[dict[str, float]] = field(default_factory=list)


def fit(
    source: Config | FlaxCheckpoint | str | Path,
    batches: Batches,
    plan: Plan,
    *,
    validation: Batches | None = None,
    out: str | Path | None = None,
    devices: Sequence[Any] | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
) -> Fitted:
    """Trains a new model of a config, or goes on from a checkpoint or from whatever `load` knows.

    `batches(step)` gives numpy batches from that step on: `images` (b, c, height, width), already normalised, and
    `labels`, class numbers (b,) or shares of classes (b, classes). It is asked once, with the steps already done, so
    a run that stopped goes on bit for bit where it writes to `out` and its source is the same function of the step.
    `validation(0)` gives the batches of one evaluation. `out` is a run folder: `config.json`, `log.jsonl`,
    `checkpoints/state.msgpack`, and `best/`, the checkpoint of the highest top-1, of the last step without validation.
    `report` is called with each row of the log. ValueError where `out` holds another run, or the batches end early.
    """
    start = _start(source, plan)
    run = _Run(Path(out), plan, start.config) if out is not None else None
    model = start.model(dtype=jnp.dtype(plan.precision), remat=plan.remat)
    mesh = make_mesh(devices)
    state = make_state(start.params, plan, mesh)
    log: list[dict[str, float]] = []
    if run is not None:
        state, log = run.resume(state)
    step = make_step(model, plan, mesh)
    done = int(state.step)
    stream = batches(done)
    while done < plan.steps:
        batch = next(stream, None)
        if batch is None:
            raise ValueError(f"the batches ended after {done} steps of {plan.steps}")
        state, numbers = step(state, place_batch(batch, mesh))
        done += 1
        row = _row(done, numbers, plan)
        if validation is not None and _due(done, plan.evaluate_every, plan):
            row |= evaluate(model, state.best_params, validation(0), plan, mesh)
        if len(row) > 1:
            log.append(row)
            if report is not None:
                report(row)
        if run is not None:
            run.keep(state, row, log, replace(start, params=state.best_params))
    return Fitted(checkpoint=replace(start, params=jax.device_get(state.best_params)), log=log)


def evaluate(
    model: ViT, params: Any, batches: Iterator[Mapping[str, np.ndarray]], plan: Plan, mesh: Mesh
) -> dict[str, float]:
    """`validation_top1` and `validation_loss`, means over all samples; batches are filled up to fit the devices."""
    total = np.zeros(3)
    for batch in batches:
        size = batch["labels"].shape[0]
        fill = -size % mesh.size
        padded = {name: np.concatenate([batch[name], batch[name][:1].repeat(fill, 0)]) for name in ("images", "labels")}
        right, loss = _scores(params, place_batch(padded, mesh), model=model, plan=plan)
        total += [np.asarray(right)[:size].sum(), np.asarray(loss)[:size].sum(), size]
    if total[2] == 0:
        raise ValueError("there is nothing to evaluate on: the validation batches are empty")
    right, loss, count = total.tolist()
    return {"validation_top1": right / count, "validation_loss": loss / count}


def _scores_of(params: Any, batch: Mapping[str, jax.Array], *, model: ViT, plan: Plan) -> tuple[jax.Array, jax.Array]:
    scores = logits(model, params, batch["images"])
    labels = batch["labels"] if batch["labels"].ndim == 1 else batch["labels"].argmax(axis=-1)
    return scores.argmax(axis=-1) == labels, losses(scores, batch["labels"], plan)


_scores = jax.jit(_scores_of, static_argnames=("model", "plan"))


class _Run:
    """A run folder: what a run writes, and takes up again."""

    def __init__(self, folder: Path, plan: Plan, config: Config):
        self.folder = folder
        self.plan = plan
        self.state = folder / "checkpoints" / "state.msgpack"
        self.log = folder / "log.jsonl"
        text = json.dumps({"backend": "jax", "plan": configs.to_dict(plan), "model": models.to_dict(config)}, indent=2)
        path = folder / "config.json"
        if path.exists() and path.read_text() != text:
            raise ValueError(f"{folder} holds another run: its config.json is not this one; choose another folder")
        self.state.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, text)

    def resume(self, state: TrainState) -> tuple[TrainState, list[dict[str, float]]]:
        """The state and the log that the folder holds; `state` and none where it is new."""
        if not self.state.exists():
            return state, []
        saved = serialization.from_bytes({"state": state, "log": ""}, self.state.read_bytes())
        places = jax.tree.map(lambda value: value.sharding, state)
        return jax.device_put(saved["state"], places), json.loads(saved["log"])

    def keep(self, state: TrainState, row: dict[str, float], log: list[dict[str, float]], now: FlaxCheckpoint) -> None:
        """Writes what is due after a step: the best checkpoint, the log, and the state, whole or not at all."""
        done = row["step"]
        scores = [each["validation_top1"] for each in log if "validation_top1" in each]
        best = "validation_top1" in row and (self.plan.keep == "last" or row["validation_top1"] >= max(scores))
        if best or (not scores and done == self.plan.steps):
            save(self.folder / "best", replace(now, params=jax.device_get(now.params)), overwrite=True)
        if len(row) > 1:
            atomic.write_text(self.log, "".join(json.dumps(each) + "\n" for each in log))
        if _due(int(done), self.plan.checkpoint_every, self.plan):
            # The log goes with the state, so that a run that stopped in between does not write a row twice.
            data = serialization.to_bytes({"state": jax.device_get(state), "log": json.dumps(log)})
            atomic.write_bytes(self.state, data)


def _start(source: Config | FlaxCheckpoint | str | Path, plan: Plan) -> FlaxCheckpoint:
    if isinstance(source, FlaxCheckpoint):
        return source
    if not isinstance(source, Config):
        return load(source)
    images = jnp.zeros((1, *source.image_size, source.channels))
    params = jax.jit(ViT(source).init)(jax.random.key(plan.seed), images)["params"]
    return FlaxCheckpoint(config=source, params=params)


def _row(done: int, numbers: Mapping[str, jax.Array], plan: Plan) -> dict[str, float]:
    """The numbers of this step where they are due; only then does the host wait for the device."""
    row: dict[str, float] = {"step": done}
    return row | {name: float(value) for name, value in numbers.items()} if _due(done, plan.log_every, plan) else row


def _due(done: int, every: int, plan: Plan) -> bool:
    return done == plan.steps or (every > 0 and done % every == 0)
