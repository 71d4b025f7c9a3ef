"""Implements `FlaxViTModel` and `FlaxViTForImageClassification` of transformers 4.

Signatures, outputs and methods are those of transformers 4.57, its last release with Flax. The parameters have the
names of Google's tree: the pooler of Hugging Face is `pre_logits`, the classifier `head`. Improvements: any image size,
square or not; hidden states also without `return_dict`; a single compiled call.
"""

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.typing import ArrayLike, DTypeLike

from vitkit.jax.convert import Params, PyTree, flatten, nest
from vitkit.jax.flax_config import Attributes, ViTAttributes, model_config
from vitkit.jax.load import check, shapes
from vitkit.jax.outputs import FlaxBaseModelOutputWithPooling, FlaxSequenceClassifierOutput, Output
from vitkit.jax.pretrained import read, write
from vitkit.jax.vit import ViT


class FlaxViTPreTrainedModel(ABC):
    """Base class of the Flax models: parameters, compiled forward pass, loading, saving and dtype casts.

    `config` is a ViTConfig or any object with its attributes. With `_do_init=False` the model stores no parameters:
    create them with `init_weights` and pass them to every call.
    """

    config_class: Attributes = ViTAttributes
    classifier: bool

    def __init__(
        self,
        config: Attributes,
        input_shape: tuple[int, ...] | None = None,
        seed: int = 0,
        dtype: DTypeLike = jnp.float32,
        _do_init: bool = True,
    ):
        self.config = config
        self.dtype = dtype
        self.seed = seed
        self.key = jax.random.key(seed)
        self.module = ViT(model_config(config, classifier=self.classifier), dtype=dtype)
        self.input_shape = input_shape or (1, *self.module.config.image_size, config.num_channels)
        self.params_shape_tree = nest(shapes(self.module.config))
        self._missing_keys: set[str] = set()
        self._is_initialized = _do_init
        self._params = self.init_weights(self.key, self.input_shape) if _do_init else None

    @abstractmethod
    def _output(self, tokens: jax.Array, last: jax.Array, **more: tuple[jax.Array, ...] | None) -> Output:
        """Creates the model output from the tokens after the final norm and the pooled output or logits."""

    def __call__(
        self,
        pixel_values: ArrayLike,
        params: Params | None = None,
        dropout_rng: jax.Array | None = None,
        train: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Returns the output for images (b, c, height, width). It is a tuple if `return_dict=False`.

        `params` replace the stored parameters. Training needs `dropout_rng` if the config has any dropout.
        """
        config = self.config
        attentions = getattr(config, "output_attentions", False) if output_attentions is None else output_attentions
        hidden = (
            getattr(config, "output_hidden_states", False) if output_hidden_states is None else output_hidden_states
        )
        as_dict = getattr(config, "use_return_dict", True) if return_dict is None else return_dict
        tokens, last, hidden_states, weights = _forward(
            self.params if params is None else params,
            jnp.asarray(pixel_values, jnp.float32),
            dropout_rng,
            module=self.module,
            train=train,
            capture=(bool(hidden), bool(attentions)),
        )
        output = self._output(tokens, last, hidden_states=hidden_states, attentions=weights)
        return output if as_dict else output.to_tuple()

    @property
    def params(self) -> Params:
        """The parameters as nested dicts. Raises AttributeError for a model with `_do_init=False`."""
        if self._params is None:
            raise AttributeError("a model with _do_init=False stores no params; pass them to each call")
        return self._params

    @params.setter
    def params(self, params: Mapping[str, PyTree]) -> None:
        """Replaces the parameters. Raises ValueError if they do not match the config."""
        if not self._is_initialized:
            raise ValueError("a model with _do_init=False stores no params; pass them to each call")
        check(self.module.config, params)
        self._params = dict(params)

    @property
    def required_params(self) -> set[tuple[str, ...]]:
        """The names (paths) of all parameters of the model."""
        return set(traverse_util.flatten_dict(self.params_shape_tree))

    def init_weights(
        self, rng: jax.Array, input_shape: tuple[int, ...] | None = None, params: Mapping[str, PyTree] | None = None
    ) -> Params:
        """Returns initial parameters: truncated normal weights, zero biases and norm scales of one.

        The standard deviation is `initializer_range`. Parameters in `params` are used unchanged. `input_shape` is
        accepted for compatibility and ignored.
        """
        given = flatten(params) if params else {}
        spread = jax.nn.initializers.truncated_normal(getattr(self.config, "initializer_range", 0.02))
        flat = {}
        for index, (name, shape) in enumerate(sorted(shapes(self.module.config).items())):
            key = jax.random.fold_in(rng, index)
            if name in given:
                flat[name] = given[name]
            elif name.endswith(("/bias", "/scale")):
                flat[name] = jnp.full(shape, float(name.endswith("/scale")))
            else:
                flat[name] = spread(key, shape)
        return nest(flat)

    def num_parameters(self, params: Params | None = None) -> int:
        """Returns the number of parameters."""
        return sum(int(np.prod(value.shape)) for value in jax.tree.leaves(self.params if params is None else params))

    def to_bf16(self, params: Params, mask: Params | None = None) -> Params:
        """Returns `params` in bfloat16. With `mask`, only the parameters whose mask is True are cast."""
        return _cast(params, jnp.bfloat16, mask)

    def to_fp16(self, params: Params, mask: Params | None = None) -> Params:
        """Returns `params` in float16. `mask` selects parameters as in `to_bf16`."""
        return _cast(params, jnp.float16, mask)

    def to_fp32(self, params: Params, mask: Params | None = None) -> Params:
        """Returns `params` in float32. `mask` selects parameters as in `to_bf16`."""
        return _cast(params, jnp.float32, mask)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        dtype: DTypeLike = jnp.float32,
        *,
        config: Attributes = None,
        seed: int = 0,
        from_pt: bool = False,
        ignore_mismatched_sizes: bool = False,
        _do_init: bool = True,
        **changes: object,
    ) -> Any:
        """Loads a model from a folder, a Hub id or any file that `vitkit.jax.load` supports.

        `changes` override attributes of the config (`num_labels=10`). Missing parameters are initialized, with a
        warning. `from_pt` is ignored, since the format is detected. Returns (model, params) if `_do_init=False`. Raises
        ValueError for unknown attributes, and for mismatched shapes unless `ignore_mismatched_sizes`.
        """
        config, loaded = read(source, config or cls.config_class, changes, classifier=cls.classifier)
        model = cls(config, seed=seed, dtype=dtype, _do_init=False)
        expected = shapes(model.module.config)
        wrong = [name for name, value in loaded.items() if name in expected and tuple(value.shape) != expected[name]]
        if wrong and not ignore_mismatched_sizes:
            pairs = "; ".join(
                f"{name} has shape {tuple(loaded[name].shape)}, expected {expected[name]}" for name in wrong[:3]
            )
            raise ValueError(
                f"{source} does not match the config: {pairs}; pass ignore_mismatched_sizes=True to initialize them"
            )
        used = {name: jnp.asarray(loaded[name]) for name in expected if name in loaded and name not in wrong}
        model._missing_keys = set(expected) - set(used)
        if model._missing_keys:
            names = ", ".join(sorted(model._missing_keys))
            warnings.warn(
                f"newly initialized, train before use: {names} (missing or mismatched in {source})", stacklevel=2
            )
        params = model.init_weights(model.key, model.input_shape, nest(used))
        if not _do_init:
            return model, params
        model._is_initialized, model._params = True, params
        return model

    def save_pretrained(self, folder: str | os.PathLike[str], params: Params | None = None) -> None:
        """Saves `config.json` and `model.safetensors`, which the PyTorch classes can also load."""
        write(folder, self.config, self.module.config, self.params if params is None else params)


class FlaxViTModel(FlaxViTPreTrainedModel):
    """ViT that returns the tokens after the final norm and the pooled class token."""

    classifier = False

    def _output(
        self, tokens: jax.Array, last: jax.Array, **more: tuple[jax.Array, ...] | None
    ) -> FlaxBaseModelOutputWithPooling:
        return FlaxBaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=last, **more)


class FlaxViTForImageClassification(FlaxViTPreTrainedModel):
    """ViT with a linear classifier on the class token."""

    classifier = True

    def _output(
        self, tokens: jax.Array, last: jax.Array, **more: tuple[jax.Array, ...] | None
    ) -> FlaxSequenceClassifierOutput:
        return FlaxSequenceClassifierOutput(logits=last, **more)


@partial(jax.jit, static_argnames=("module", "train", "capture"))
def _forward(
    params: Params,
    pixel_values: jax.Array,
    dropout_rng: jax.Array | None,
    *,
    module: ViT,
    train: bool,
    capture: tuple[bool, bool],
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, ...] | None, tuple[jax.Array, ...] | None]:
    """Returns the tokens, the pooled output or logits, the hidden states and the attention weights."""

    def run(bound: ViT, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = bound.features(images, train=train)
        return features.tokens, bound.classify(features)

    images = jnp.transpose(pixel_values, (0, 2, 3, 1))
    rngs = {} if dropout_rng is None else {"dropout": dropout_rng}
    (tokens, last), state = module.apply({"params": params}, images, rngs=rngs, method=run, mutable=["intermediates"])
    intermediates: PyTree = state["intermediates"]["Transformer"]
    blocks = [intermediates[f"encoderblock_{index}"] for index in range(module.config.depth)]
    hidden_states = (intermediates["embedded"][0], *(block["hidden_state"][0] for block in blocks))
    attentions = tuple(block["MultiHeadDotProductAttention_0"]["attention"][0] for block in blocks)
    return tokens, last, hidden_states if capture[0] else None, attentions if capture[1] else None


def _cast(params: Params, dtype: DTypeLike, mask: Params | None) -> Params:
    def cast(value: jax.Array, selected: bool = True) -> jax.Array:
        return value.astype(dtype) if selected and jnp.issubdtype(value.dtype, jnp.floating) else value

    return jax.tree.map(cast, params) if mask is None else jax.tree.map(cast, params, mask)
