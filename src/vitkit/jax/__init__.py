"""JAX/Flax implementation of the Vision Transformer, with the parameter names of Google's code.

    checkpoint = vitkit.jax.load("ViT-B_16.npz")        # or any checkpoint that vitkit.load opens
    logits = checkpoint.model().apply({"params": checkpoint.params}, images)        # images (b, height, width, c)

Files: `vit` and `layers` (modules in Flax Linen with the parameter names of Google's code), `convert` (to and from the
PyTorch model, bit for bit), `npz` (Google's files), `load` (checkpoints), `outputs`, `step` (one sharded training
step), `fit` (supervised training and fine-tuning), `run` (training of a `vitkit.training.Run`). Only `cli` and
`transformers`, which has the Flax classes of transformers 4, import this folder.

Images are NHWC; `fit` accepts NCHW. If the extra `vitkit[jax]` is not installed, importing this package raises an
ImportError with the install command.
"""

import importlib.util

_MISSING = [name for name in ("jax", "flax", "optax") if importlib.util.find_spec(name) is None]
if _MISSING:
    raise ImportError(f"vitkit.jax needs {', '.join(_MISSING)}: pip install 'vitkit[jax]'")
from vitkit.jax.convert import flatten, nest, to_flax, to_torch  # noqa: E402
from vitkit.jax.fit import FitResult, evaluate, fit  # noqa: E402
from vitkit.jax.load import FlaxCheckpoint, load, save  # noqa: E402
from vitkit.jax.outputs import Features  # noqa: E402
from vitkit.jax.step import (  # noqa: E402
    TrainingConfig,
    TrainState,
    learning_rate,
    make_mesh,
    make_optimizer,
    make_state,
    make_step,
    shard_batch,
)
from vitkit.jax.vit import ViT  # noqa: E402

__all__ = [
    "Features",
    "FitResult",
    "FlaxCheckpoint",
    "TrainState",
    "TrainingConfig",
    "ViT",
    "evaluate",
    "fit",
    "flatten",
    "learning_rate",
    "load",
    "make_mesh",
    "make_optimizer",
    "make_state",
    "make_step",
    "nest",
    "save",
    "shard_batch",
    "to_flax",
    "to_torch",
]
