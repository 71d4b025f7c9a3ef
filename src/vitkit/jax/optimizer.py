"""The numbers of a supervised run, and the optax optimiser and schedule that they make."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A supervised run: `steps` updates, each of one batch.

    The learning rate rises linearly from 0 over `warmup_steps`, then falls to `final_learning_rate` by `schedule`.
    `weight_decay` is AdamW's (multiplied by the learning rate), on kernels only, as in big_vision. `clip` is the
    largest norm of a gradient. `loss` is a softmax cross-entropy or a sum over classes of sigmoid ones.
    `accumulate` cuts a batch into that many parts, one after the other. `average` is the decay of a Polyak average
    of the weights, which is then what is evaluated and saved. `momentum_precision` is that of the first moments
    (bfloat16 in the original). `shard_parameters` spreads parameters and moments over the devices too. `keep`
    says which checkpoint a run with validation leaves: that of the highest top-1, or the last. The `_every` are in
    steps, 0 for only at the end.
    """

    steps: int
    learning_rate: float = 1e-3
    warmup_steps: int = 0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final_learning_rate: float = 0.0
    optimizer: Literal["adamw", "sgd"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    momentum_precision: Literal["float32", "bfloat16"] = "float32"
    weight_decay: float = 0.0
    clip: float | None = 1.0
    loss: Literal["softmax", "sigmoid"] = "softmax"
    label_smoothing: float = 0.0
    accumulate: int = 1
    average: float | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    shard_parameters: bool = False
    seed: int = 0
    keep: Literal["best", "last"] = "best"
    log_every: int = 10
    evaluate_every: int = 0
    checkpoint_every: int = 0

    def __post_init__(self) -> None:
        """Refuses numbers that mean no run."""
        if self.steps < 1 or self.accumulate < 1:
            raise ValueError(f"steps is {self.steps} and accumulate {self.accumulate}; both must be at least 1")
        if not 0 <= self.warmup_steps <= self.steps:
            raise ValueError(f"warmup_steps is {self.warmup_steps}; it must lie between 0 and steps, {self.steps}")


def learning_rate(plan: Plan) -> optax.Schedule:
    """The learning rate of update number n, counted from 0 (google-research/vision_transformer's formula)."""

    def rate(count: Any) -> jax.Array:
        step = jnp.asarray(count, jnp.float32)
        progress = jnp.clip((step - plan.warmup_steps) / max(plan.steps - plan.warmup_steps, 1), 0.0, 1.0)
        shape = {"cosine": 0.5 * (1 + jnp.cos(jnp.pi * progress)), "linear": 1 - progress, "constant": 1.0}
        value = plan.final_learning_rate + (plan.learning_rate - plan.final_learning_rate) * shape[plan.schedule]
        return value * jnp.minimum(1.0, step / plan.warmup_steps) if plan.warmup_steps else jnp.asarray(value)

    return rate


def make_optimizer(plan: Plan) -> optax.GradientTransformation:
    """Clipping, moments, decay of the kernels, and the learning rate, in the order of the originals."""
    moment = jnp.dtype(plan.momentum_precision)
    moments = (
        optax.scale_by_adam(*plan.betas, mu_dtype=moment)
        if plan.optimizer == "adamw"
        else optax.trace(plan.momentum, accumulator_dtype=moment)
    )
    return optax.chain(
        optax.clip_by_global_norm(plan.clip) if plan.clip else optax.identity(),
        moments,
        optax.add_decayed_weights(plan.weight_decay, mask=kernels),
        optax.scale_by_learning_rate(learning_rate(plan)),
    )


def kernels(params: Any) -> Any:
    """True for the parameters that decay: kernels, that is neither biases, norms, tables nor special tokens."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
