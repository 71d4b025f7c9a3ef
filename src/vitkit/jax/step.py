"""Training step of the Flax model: optimizer, learning rate schedule, sharding and losses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from vitkit.jax.convert import Params, PyTree
from vitkit.jax.vit import ViT
from vitkit.task import SINGLE_LABEL, Task


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Configuration of supervised training: a fixed number of steps, with one batch per step.

    steps, accumulate     optimizer updates, and parts into which each batch is split for gradient accumulation
    learning_rate, warmup_steps, schedule, final_learning_rate
                          linear warmup from 0, then decay to the final rate
    optimizer, betas, momentum, momentum_precision, clip
                          momentum is that of SGD; the precision that of first moments; clip the maximum gradient norm
    weight_decay          decoupled (multiplied by the learning rate), on kernels only, as in big_vision
    loss                  softmax cross-entropy, sigmoid cross-entropy summed over classes, or the mean squared error
                          of standardized targets, for a regression
    ema                   decay of an exponential moving average of the weights, which is evaluated and saved
    precision, remat      dtype of the computations; activation checkpointing
    shard_parameters      also shard parameters and optimizer state over the devices
    keep                  with validation, save the checkpoint with the best top-1 accuracy (mean average precision
                          of independent labels, R2 of a regression) or the last one
    log_every, evaluate_every, checkpoint_every
                          in steps; 0 means at the end only
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
    loss: Literal["softmax", "sigmoid", "mse"] = "softmax"
    label_smoothing: float = 0.0
    accumulate: int = 1
    ema: float | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    shard_parameters: bool = False
    seed: int = 0
    keep: Literal["best", "last"] = "best"
    log_every: int = 10
    evaluate_every: int = 0
    checkpoint_every: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError if a number of steps is out of range."""
        if self.steps < 1 or self.accumulate < 1:
            raise ValueError(f"steps is {self.steps} and accumulate is {self.accumulate}; both must be at least 1")
        if not 0 <= self.warmup_steps <= self.steps:
            raise ValueError(f"warmup_steps is {self.warmup_steps}; expected a number from 0 to steps={self.steps}")


def learning_rate(training: TrainingConfig) -> optax.Schedule:
    """Returns the learning rate schedule of google-research/vision_transformer as a function of the step."""

    def rate(count: ArrayLike) -> jax.Array:
        step = jnp.asarray(count, jnp.float32)
        progress = jnp.clip((step - training.warmup_steps) / max(training.steps - training.warmup_steps, 1), 0.0, 1.0)
        shape = {"cosine": 0.5 * (1 + jnp.cos(jnp.pi * progress)), "linear": 1 - progress, "constant": 1.0}
        value = (
            training.final_learning_rate
            + (training.learning_rate - training.final_learning_rate) * shape[training.schedule]
        )
        return value * jnp.minimum(1.0, step / training.warmup_steps) if training.warmup_steps else jnp.asarray(value)

    return rate


def make_optimizer(training: TrainingConfig) -> optax.GradientTransformation:
    """Returns AdamW or SGD with gradient clipping, a learning rate schedule, and weight decay on kernels only."""
    moment = jnp.dtype(training.momentum_precision)
    moments = (
        optax.scale_by_adam(*training.betas, mu_dtype=moment)
        if training.optimizer == "adamw"
        else optax.trace(training.momentum, accumulator_dtype=moment)
    )
    return optax.chain(
        optax.clip_by_global_norm(training.clip) if training.clip else optax.identity(),
        moments,
        optax.add_decayed_weights(training.weight_decay, mask=kernels),
        optax.scale_by_learning_rate(learning_rate(training)),
    )


def kernels(params: Params) -> PyTree:
    """Returns the mask of the parameters with weight decay: True for kernels, False for others."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


Batch = Mapping[str, jax.Array | np.ndarray]


@struct.dataclass
class TrainState:
    """The training state: step, parameters, optimizer state and, if EMA is enabled, EMA parameters."""

    step: jax.Array
    params: PyTree
    moments: optax.OptState
    ema: PyTree = None

    @property
    def best_params(self) -> PyTree:
        """The EMA parameters if EMA is enabled, otherwise the parameters."""
        return self.params if self.ema is None else self.ema


def make_mesh(devices: Sequence[object] | None = None) -> Mesh:
    """Returns a device mesh with the single axis `data`, over the given devices or all devices."""
    return Mesh(np.array(jax.devices() if devices is None else list(devices)), ("data",))


def make_state(params: Params, training: TrainingConfig, mesh: Mesh) -> TrainState:
    """Returns the initial training state on the devices of the mesh. The parameters are copied."""

    def initial(params: Params) -> TrainState:
        ema = params if training.ema is not None else None
        return TrainState(jnp.zeros((), jnp.int32), params, make_optimizer(training).init(params), ema)

    params = jax.tree.map(jnp.asarray, params)
    return jax.jit(initial, out_shardings=shardings(jax.eval_shape(initial, params), training, mesh))(params)


def shardings(state: TrainState, training: TrainingConfig, mesh: Mesh) -> PyTree:
    """Returns the sharding of each array: replicated, or sharded along one axis.

    That axis is the longest one divisible by the number of devices.
    """

    def sharding(value: jax.ShapeDtypeStruct) -> NamedSharding:
        divisible = [size if size % mesh.size == 0 else 0 for size in value.shape]
        if not training.shard_parameters or not any(divisible):
            return NamedSharding(mesh, PartitionSpec())
        axis = int(np.argmax(divisible))
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))

    return jax.tree.map(sharding, state)


def shard_batch(batch: Batch, mesh: Mesh) -> dict[str, jax.Array]:
    """Shards the batch of this process over the devices, whose number must divide the batch size."""
    size = np.asarray(batch["labels"]).shape[0]
    if size * jax.process_count() % mesh.size:
        raise ValueError(f"batch size {size} is not divisible by the number of devices, {mesh.size}")
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    arrays = {name: np.asarray(batch[name]) for name in ("images", "labels")}
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in arrays.items()}


def make_step(
    model: ViT, training: TrainingConfig, mesh: Mesh
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the compiled training step, which maps (state, sharded batch) to (new state, metrics).

    The old state is donated. A batch has `images` (b, c, height, width) and `labels`: class indices (b,),
    probabilities (b, classes), or targets in their own units.
    """
    return partial(_step, model=model, training=training, mesh=mesh)


@partial(jax.jit, static_argnames=("model", "training", "mesh"), donate_argnums=0)
def _step(
    state: TrainState, batch: Batch, *, model: ViT, training: TrainingConfig, mesh: Mesh
) -> tuple[TrainState, dict[str, jax.Array]]:
    key = jax.random.fold_in(jax.random.key(training.seed), state.step)
    loss, gradients = _gradients(model, training, state.params, batch, key)
    updates, moments = make_optimizer(training).update(gradients, state.moments, state.params)
    params = optax.apply_updates(state.params, updates)
    ema, decay = state.ema, training.ema
    if decay is not None:
        ema = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, ema, params)
    rate = learning_rate(training)(state.step)
    metrics = {"loss": loss, "learning_rate": rate, "gradient_norm": optax.tree.norm(gradients)}
    new = TrainState(state.step + 1, params, moments, ema)
    return jax.lax.with_sharding_constraint(new, shardings(new, training, mesh)), metrics


def _gradients(
    model: ViT, training: TrainingConfig, params: Params, batch: Batch, key: jax.Array
) -> tuple[jax.Array, Params]:
    """Returns the mean loss and its gradient. Both are accumulated over the micro-batches of the batch."""

    def loss(params: Params, images: jax.Array, labels: jax.Array, key: jax.Array) -> jax.Array:
        return losses(logits(model, params, images, key), labels, training, model.config.task).mean()

    if training.accumulate == 1:
        return jax.value_and_grad(loss)(params, batch["images"], batch["labels"], key)
    # Each part consists of images of every device, so that no data moves between devices.
    parts = {name: rearrange(array, "(b a) ... -> a b ...", a=training.accumulate) for name, array in batch.items()}

    def add(total: PyTree, part: PyTree) -> tuple[PyTree, None]:
        images, labels, index = part
        one = jax.value_and_grad(loss)(params, images, labels, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, one), None

    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    total, _ = jax.lax.scan(add, zero, (parts["images"], parts["labels"], jnp.arange(training.accumulate)))
    return jax.tree.map(lambda value: value / training.accumulate, total)


def logits(model: ViT, params: Params, images: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """Returns the logits of images (b, c, height, width). With `key`, the model is in training mode."""
    rngs = {} if key is None else {"dropout": key}
    result = model.apply({"params": params}, rearrange(images, "b c h w -> b h w c"), train=key is not None, rngs=rngs)
    return jnp.asarray(result)


def losses(scores: jax.Array, labels: jax.Array, training: TrainingConfig, task: Task = SINGLE_LABEL) -> jax.Array:
    """Returns the loss of each sample, in float32. Regression targets are standardized with mean and std of `task`."""
    scores = scores.astype(jnp.float32)
    classes = scores.shape[-1]
    if training.loss == "mse":
        targets = labels.reshape(scores.shape).astype(jnp.float32)
        if task.target_std:
            targets = (targets - jnp.asarray(task.target_mean)) / jnp.asarray(task.target_std)
        return jnp.square(scores - targets).mean(axis=-1)
    targets = labels if labels.ndim == scores.ndim else jax.nn.one_hot(labels, classes)
    targets = targets.astype(jnp.float32) * (1 - training.label_smoothing) + training.label_smoothing / classes
    if training.loss == "sigmoid":
        return optax.sigmoid_binary_cross_entropy(scores, targets).sum(axis=-1)
    return optax.softmax_cross_entropy(scores, targets)
