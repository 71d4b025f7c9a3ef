"""The training step of the Flax twin: optax optimizer, schedule, sharding and losses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vitkit.jax.vit import ViT


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


Batch = Mapping[str, Any]


@struct.dataclass
class TrainState:
    """All that a run is: how many updates it has made, weights, moments and, where asked for, the average."""

    step: jax.Array
    params: Any
    moments: Any
    average: Any = None

    @property
    def best_params(self) -> Any:
        """The averaged weights where there are, else the weights."""
        return self.params if self.average is None else self.average


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of one axis, `data`, over these devices or all there are."""
    return Mesh(np.array(jax.devices() if devices is None else list(devices)), ("data",))


def make_state(params: Any, plan: Plan, mesh: Mesh) -> TrainState:
    """The state before the first update, on the devices of the mesh; the parameters are copied."""

    def fresh(params: Any) -> TrainState:
        average = params if plan.average is not None else None
        return TrainState(jnp.zeros((), jnp.int32), params, make_optimizer(plan).init(params), average)

    params = jax.tree.map(jnp.asarray, params)
    return jax.jit(fresh, out_shardings=shardings(jax.eval_shape(fresh, params), plan, mesh))(params)


def shardings(state: TrainState, plan: Plan, mesh: Mesh) -> Any:
    """Where each array of a state lives: everywhere, or cut along its longest axis that the devices divide."""

    def place(value: Any) -> NamedSharding:
        fits = [size if size % mesh.size == 0 else 0 for size in value.shape]
        if not plan.shard_parameters or not any(fits):
            return NamedSharding(mesh, PartitionSpec())
        axis = int(np.argmax(fits))
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))

    return jax.tree.map(place, state)


def place_batch(batch: Batch, mesh: Mesh) -> dict[str, jax.Array]:
    """The batch of this process cut along its first axis over the devices; ValueError where it does not divide."""
    size = np.asarray(batch["labels"]).shape[0]
    if size * jax.process_count() % mesh.size:
        raise ValueError(f"a batch of {size} does not divide over {mesh.size} devices: make it a multiple")
    place = NamedSharding(mesh, PartitionSpec("data"))
    arrays = {name: np.asarray(batch[name]) for name in ("images", "labels")}
    return {name: jax.make_array_from_process_local_data(place, array) for name, array in arrays.items()}


def make_step(
    model: ViT, plan: Plan, mesh: Mesh
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """The compiled update: a state and a placed batch to the next state and its numbers; the old state is used up.

    A batch holds `images` (b, c, height, width) and `labels`, class numbers (b,) or shares of classes (b, classes).
    """
    return partial(_step, model=model, plan=plan, mesh=mesh)


@partial(jax.jit, static_argnames=("model", "plan", "mesh"), donate_argnums=0)
def _step(
    state: TrainState, batch: Batch, *, model: ViT, plan: Plan, mesh: Mesh
) -> tuple[TrainState, dict[str, jax.Array]]:
    key = jax.random.fold_in(jax.random.key(plan.seed), state.step)
    loss, gradients = _gradients(model, plan, state.params, batch, key)
    updates, moments = make_optimizer(plan).update(gradients, state.moments, state.params)
    params = optax.apply_updates(state.params, updates)
    average, decay = state.average, plan.average
    if decay is not None:
        average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, average, params)
    rate = learning_rate(plan)(state.step)
    numbers = {"loss": loss, "learning_rate": rate, "gradient_norm": optax.tree.norm(gradients)}
    new = TrainState(state.step + 1, params, moments, average)
    return jax.lax.with_sharding_constraint(new, shardings(new, plan, mesh)), numbers


def _gradients(model: ViT, plan: Plan, params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, Any]:
    """Mean loss and its gradient, over the parts of the batch one after the other."""

    def loss(params: Any, images: jax.Array, labels: jax.Array, key: jax.Array) -> jax.Array:
        return losses(logits(model, params, images, key), labels, plan).mean()

    if plan.accumulate == 1:
        return jax.value_and_grad(loss)(params, batch["images"], batch["labels"], key)
    # Every part takes its share of each device's pictures, so that none has to move.
    parts = {name: rearrange(array, "(b a) ... -> a b ...", a=plan.accumulate) for name, array in batch.items()}

    def add(total: Any, part: Any) -> tuple[Any, None]:
        images, labels, index = part
        one = jax.value_and_grad(loss)(params, images, labels, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, one), None

    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    total, _ = jax.lax.scan(add, zero, (parts["images"], parts["labels"], jnp.arange(plan.accumulate)))
    return jax.tree.map(lambda value: value / plan.accumulate, total)


def logits(model: ViT, params: Any, images: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """Logits of pictures (b, c, height, width); with a `key` as in training."""
    rngs = {} if key is None else {"dropout": key}
    result = model.apply({"params": params}, rearrange(images, "b c h w -> b h w c"), train=key is not None, rngs=rngs)
    return jnp.asarray(result)


def losses(scores: jax.Array, labels: jax.Array, plan: Plan) -> jax.Array:
    """The loss of each sample, in float32."""
    scores = scores.astype(jnp.float32)
    classes = scores.shape[-1]
    targets = labels if labels.ndim == scores.ndim else jax.nn.one_hot(labels, classes)
    targets = targets.astype(jnp.float32) * (1 - plan.label_smoothing) + plan.label_smoothing / classes
    if plan.loss == "sigmoid":
        return optax.sigmoid_binary_cross_entropy(scores, targets).sum(axis=-1)
    return optax.softmax_cross_entropy(scores, targets)
