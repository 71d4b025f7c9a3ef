"""Converts parameters between the Flax classes of transformers, `vitkit.jax.ViT` and PyTorch.

`params["vit"]["encoder"]["layer"]["0"]["attention"]["attention"]["query"]["kernel"]` of transformers has the shape
(width, width); Google's tree, which `vitkit.jax.ViT` uses, splits it into heads. In files, names are joined by dots,
kernels are transposed, and the leaves of norms are `weight`.
"""

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import unfreeze
from torch import Tensor

from vitkit.checkpoints.formats.huggingface import vit as huggingface
from vitkit.jax.convert import POSITIONS, Flat, Params, PyTree, flatten, nest, to_array, to_tensor
from vitkit.jax.load import shapes
from vitkit.jax.vit import ViT
from vitkit.models.vit import Config

LAYER = r"encoder/layer/\1"
# Patterns of names in Google's tree, and the names in transformers.
NAMES = (
    ("^cls$", "embeddings/cls_token"),
    (f"^{POSITIONS}$", "embeddings/position_embeddings"),
    ("^embedding/", "embeddings/patch_embeddings/projection/"),
    (r"^Transformer/encoderblock_(\d+)/LayerNorm_0/", f"{LAYER}/layernorm_before/"),
    (r"^Transformer/encoderblock_(\d+)/LayerNorm_1/", f"{LAYER}/layernorm_after/"),
    (r"^Transformer/encoderblock_(\d+)/MlpBlock_0/Dense_0/", f"{LAYER}/intermediate/dense/"),
    (r"^Transformer/encoderblock_(\d+)/MlpBlock_0/Dense_1/", f"{LAYER}/output/dense/"),
    (
        r"^Transformer/encoderblock_(\d+)/MultiHeadDotProductAttention_0/out/",
        f"{LAYER}/attention/output/dense/",
    ),
    (r"^Transformer/encoderblock_(\d+)/MultiHeadDotProductAttention_0/", f"{LAYER}/attention/attention/"),
    ("^Transformer/encoder_norm/", "layernorm/"),
    ("^pre_logits/", "pooler/dense/"),
    ("^head/", "classifier/"),
)
# Parameters of the PyTorch models that the Flax classes do not have.
UNUSED = ("embeddings.mask_token", "embeddings.position_ids", "decoder.")


@dataclass(frozen=True)
class Entry:
    """A parameter: its name in transformers without the prefix `vit/`, and its shapes in both trees."""

    name: str
    shape: tuple[int, ...]
    google_shape: tuple[int, ...]


@lru_cache(maxsize=32)
def entries(config: Config) -> Mapping[str, Entry]:
    """Returns an `Entry` for each parameter of a config, by its name in Google's tree."""
    found = {}
    for google, shape in shapes(config).items():
        name = google
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        merged = shape
        if name.endswith(("query/kernel", "key/kernel", "value/kernel", "query/bias", "key/bias", "value/bias")):
            merged = (*shape[:-2], shape[-2] * shape[-1])
        elif name.endswith("attention/output/dense/kernel"):
            merged = (shape[0] * shape[1], shape[2])
        found[google] = Entry(name, merged, shape)
    return found


def prefixed(name: str, *, classifier: bool) -> str:
    """Adds the prefix `vit/` to the name of an encoder parameter if the model is a classifier."""
    return f"vit/{name}" if classifier and not name.startswith("classifier/") else name


def model_shapes(config: Config, *, classifier: bool) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all parameters of a model by flat name."""
    return {prefixed(entry.name, classifier=classifier): entry.shape for entry in entries(config).values()}


def to_google(config: Config, params: Mapping[str, PyTree], *, classifier: bool) -> Params:
    """Converts the parameters of a model to those of `vitkit.jax.ViT`. Can be traced by JAX."""
    flat = flatten(unfreeze(params))  # type: ignore[arg-type]
    known = entries(config).items()
    return nest({key: flat[prefixed(e.name, classifier=classifier)].reshape(e.google_shape) for key, e in known})


def from_google(config: Config, flat: Flat) -> Flat:
    """Renames a flat dict of Google's parameters, without the prefix `vit/`. Other parameters keep their name."""
    known = entries(config)
    return {
        known[name].name if name in known else name: (
            np.asarray(value).reshape(known[name].shape) if name in known else value
        )
        for name, value in flat.items()
    }


def from_torch(state: Mapping[str, Tensor]) -> Flat:
    """Converts a PyTorch state dict with the names of transformers 4 or 5, without the prefix `vit/`.

    Parameters that the Flax classes do not have are left out.
    """
    flat: Flat = {}
    for name, tensor in state.items():
        for pattern, replacement in huggingface.FORMAT.aliases:
            name = re.sub(pattern, replacement, name)
        if name.startswith(UNUSED):
            continue
        stem, _, leaf = name.removeprefix("vit.").rpartition(".")
        if leaf == "weight":
            leaf = "kernel" if tensor.ndim > 1 else "scale"
        if leaf == "kernel":
            tensor = tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
        flat[f"{stem}.{leaf}".replace(".", "/")] = to_array(tensor.contiguous())
    return flat


def to_torch(params: Mapping[str, PyTree]) -> dict[str, Tensor]:
    """Converts the parameters of a model to a PyTorch state dict with the names of transformers 4."""
    state = {}
    for name, value in flatten(unfreeze(params)).items():  # type: ignore[arg-type]
        tensor = to_tensor(value)
        stem, _, leaf = name.rpartition("/")
        if leaf == "kernel":
            tensor = tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor.T
        leaf = "weight" if leaf in ("kernel", "scale") else leaf
        state[f"{stem}/{leaf}".replace("/", ".")] = tensor.contiguous()
    return state


@dataclass(frozen=True)
class FlaxViTModule:
    """The model function of a Flax class, with the methods `init` and `apply` of a Linen module.

    `vit` is the Linen module that computes it, `config` the config of transformers. Images are NHWC.
    """

    vit: ViT
    classifier: bool
    config: Any = field(compare=False)
    output: Any = field(compare=False)

    def init(self, rngs: Any, pixel_values: jax.Array, *args: Any, **kwargs: Any) -> Params:
        """Returns {"params": initial parameters}: truncated normal weights, zero biases and norm scales of one.

        `rngs` is a key, or a dict with the key "params". The standard deviation is `initializer_range`.
        """
        return {"params": nest(self.initial(rngs["params"] if isinstance(rngs, Mapping) else rngs))}

    def initial(self, rng: jax.Array, without: Container[str] = ()) -> dict[str, jax.Array]:
        """Returns the initial parameters by flat name, except for the names in `without`."""
        spread = jax.nn.initializers.truncated_normal(getattr(self.config, "initializer_range", 0.02))
        flat = {}
        for index, (name, shape) in enumerate(sorted(self.shapes().items())):
            if name in without:
                continue
            if name.endswith(("/bias", "/scale")):
                flat[name] = jnp.full(shape, float(name.endswith("/scale")))
            else:
                flat[name] = spread(jax.random.fold_in(rng, index), shape)
        return flat

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of all parameters by flat name."""
        return model_shapes(self.vit.config, classifier=self.classifier)

    def apply(
        self,
        variables: Mapping[str, PyTree],
        pixel_values: jax.Array,
        deterministic: bool = True,
        output_attentions: bool | None = False,
        output_hidden_states: bool | None = False,
        return_dict: bool | None = True,
        rngs: Mapping[str, jax.Array] | None = None,
    ) -> Any:
        """Returns the output for images (b, height, width, c), as a tuple if `return_dict` is False."""
        return self.run(
            variables["params"],
            pixel_values,
            (rngs or {}).get("dropout"),
            train=not deterministic,
            capture=(bool(output_hidden_states), bool(output_attentions)),
            return_dict=return_dict is not False,
        )

    def run(
        self,
        params: Mapping[str, PyTree],
        images: jax.Array,
        dropout_rng: jax.Array | None,
        *,
        train: bool,
        capture: tuple[bool, bool],
        return_dict: bool,
    ) -> Any:
        """Returns the output for images. `capture` selects hidden states and attention weights."""
        tokens, last, hidden_states, attentions = _forward(
            unfreeze(params),  # type: ignore[arg-type]
            images,
            dropout_rng,
            vit=self.vit,
            classifier=self.classifier,
            train=train,
            capture=capture,
        )
        output = self.output(tokens, last, hidden_states=hidden_states, attentions=attentions)
        return output if return_dict else output.to_tuple()


def _compute(
    params: Params,
    images: jax.Array,
    dropout_rng: jax.Array | None,
    *,
    vit: ViT,
    classifier: bool,
    train: bool,
    capture: tuple[bool, bool],
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, ...] | None, tuple[jax.Array, ...] | None]:
    """Returns the tokens, the pooled output or logits, the hidden states and the attention weights."""

    def run(bound: ViT, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = bound.features(images, train=train)
        return features.tokens, bound.classify(features)

    google = to_google(vit.config, params, classifier=classifier)
    rngs = {} if dropout_rng is None else {"dropout": dropout_rng}
    (tokens, last), state = vit.apply({"params": google}, images, rngs=rngs, method=run, mutable=["intermediates"])
    intermediates: PyTree = state["intermediates"]["Transformer"]
    blocks = [intermediates[f"encoderblock_{index}"] for index in range(vit.config.depth)]
    hidden_states = (intermediates["embedded"][0], *(block["hidden_state"][0] for block in blocks))
    attentions = tuple(block["MultiHeadDotProductAttention_0"]["attention"][0] for block in blocks)
    return tokens, last, hidden_states if capture[0] else None, attentions if capture[1] else None


_forward = jax.jit(_compute, static_argnames=("vit", "classifier", "train", "capture"))
