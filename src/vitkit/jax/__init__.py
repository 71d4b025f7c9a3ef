"""The JAX/Flax twin of `models/vit`: the same shapes and arithmetic, with parameters in the original Google tree.

    checkpoint = vitkit.jax.load("ViT-B_16.npz")        # a Google file, or whatever vitkit.checkpoints knows
    logits = checkpoint.model().apply({"params": checkpoint.params}, images)        # images (b, height, width, c)

Nothing imports this folder but `cli` and `transformers/flax`. Its files: `vit` and `layers` (the modules, Flax linen,
because a linen parameter tree *is* the original tree), `position` (the four ways to resize), `npz` (Google's files),
`convert` (to and from the PyTorch twin, bit for bit), `load`, `flax_vit` (the Hugging Face Flax classes, with
`flax_config`, `outputs` and `pretrained`), `optimizer` (the numbers of a run), `step` (one sharded training step) and
`fit` (supervised training and fine-tuning).
Arrays are NHWC inside; only the Hugging Face classes and `fit` take NCHW. Importing it without its extra is an
ImportError that says what to type.
"""

import importlib.util

_MISSING = [name for name in ("jax", "flax", "optax") if importlib.util.find_spec(name) is None]
if _MISSING:
    raise ImportError(f"vitkit.jax needs {', '.join(_MISSING)}: pip install 'vitkit[jax]'")
from vitkit.jax.convert import flatten, nest, to_flax, to_torch  # noqa: E402
from vitkit.jax.fit import Fitted, evaluate, fit  # noqa: E402
from vitkit.jax.flax_vit import FlaxViTForImageClassification, FlaxViTModel  # noqa: E402
from vitkit.jax.load import FlaxCheckpoint, load, save  # noqa: E402
from vitkit.jax.outputs import Features  # noqa: E402
from vitkit.jax.step import (  # noqa: E402  # noqa: E402
    Plan,
    TrainState,
    learning_rate,
    make_mesh,
    make_optimizer,
    make_state,
    make_step,
    place_batch,
)
from vitkit.jax.vit import ViT  # noqa: E402

__all__ = [
    "Features",
    "Fitted",
    "FlaxCheckpoint",
    "FlaxViTForImageClassification",
    "FlaxViTModel",
    "Plan",
    "TrainState",
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
    "place_batch",
    "save",
    "to_flax",
    "to_torch",
]
