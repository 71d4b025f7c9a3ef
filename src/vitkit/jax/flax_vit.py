"""`FlaxViTModel` and `FlaxViTForImageClassification`: the Flax classes of transformers 4, on the twin.

Signatures, outputs and methods are those of transformers 4.57 (its last release with Flax). The parameters are in
Google's tree, so that an original `.npz` is taken as it is: the pooler of Hugging Face is `pre_logits` there, the
classifier `head`. What is better: any image size, square or not; hidden states without `return_dict` too; one compiled
call.
"""

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

from vitkit.jax.convert import flatten, nest
from vitkit.jax.flax_config import ViTAttributes, model_config
from vitkit.jax.load import check, shapes
from vitkit.jax.outputs import FlaxBaseModelOutputWithPooling, FlaxSequenceClassifierOutput
from vitkit.jax.pretrained import read, write
from vitkit.jax.vit import ViT

Params = dict[str, Any]


class FlaxViTPreTrainedModel(ABC):
    """What both classes share: parameters, the compiled call, loading, saving and precision.

    `config` is a ViTConfig or any object with its attributes. With `_do_init=False` the model holds no parameters:
    `init_weights` makes them and every call is given them.
    """

    config_class: Any = ViTAttributes
    classifier: bool

    def __init__(
        self,
        config: Any,
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
    def _output(self, tokens: jax.Array, last: jax.Array, **more: Any) -> Any:
        """The output object for the normed tokens and what stands after the pooling."""

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
        """The output for pictures (b, c, height, width); `params` instead of the model's own where given.

        Training needs `dropout_rng` where the config has any dropout. A tuple with `return_dict=False`.
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
        """The parameters, a nested tree; AttributeError where the model was made without."""
        if self._params is None:
            raise AttributeError("made with _do_init=False, this model holds no params: give them to each call")
        return self._params

    @params.setter
    def params(self, params: Mapping[str, Any]) -> None:
        """Takes others in their place; ValueError where they do not fit, or where the model holds none."""
        if not self._is_initialized:
            raise ValueError("made with _do_init=False, this model holds no params: give them to each call")
        check(self.module.config, params)
        self._params = dict(params)

    @property
    def required_params(self) -> set[tuple[str, ...]]:
        """The path of every parameter."""
        return set(traverse_util.flatten_dict(self.params_shape_tree))

    def init_weights(
        self, rng: jax.Array, input_shape: tuple[int, ...] | None = None, params: Mapping[str, Any] | None = None
    ) -> Params:
        """Fresh parameters: normal of `initializer_range`, cut at two deviations, biases zero, norms one.

        Those in `params` are kept. `input_shape` is there for old callers; no parameter depends on it.
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
        """How many numbers the parameters hold."""
        return sum(int(np.prod(value.shape)) for value in jax.tree.leaves(self.params if params is None else params))

    def to_bf16(self, params: Params, mask: Any = None) -> Params:
        """`params` with floats as bfloat16; where `mask` (a tree of booleans) says so only. Nothing is stored."""
        return _cast(params, jnp.bfloat16, mask)

    def to_fp16(self, params: Params, mask: Any = None) -> Params:
        """As `to_bf16`, to float16."""
        return _cast(params, jnp.float16, mask)

    def to_fp32(self, params: Params, mask: Any = None) -> Params:
        """As `to_bf16`, to float32."""
        return _cast(params, jnp.float32, mask)

    @classmethod
    def from_pretrained(
        cls,
        source: Any,
        dtype: DTypeLike = jnp.float32,
        *,
        config: Any = None,
        seed: int = 0,
        from_pt: bool = False,
        ignore_mismatched_sizes: bool = False,
        _do_init: bool = True,
        **changes: Any,
    ) -> Any:
        """The model at `source`: a folder or hub id, or any file that `vitkit.jax.load` knows.

        `changes` set attributes of the config (`num_labels=10`). Parameters that the source lacks are new, with a
        warning that names them. `from_pt` says nothing: a file tells its format. With `_do_init=False` the answer is
        (model, params). ValueError for unknown attributes, and for other shapes unless `ignore_mismatched_sizes`.
        """
        config, found = read(source, config or cls.config_class, changes, classifier=cls.classifier)
        model = cls(config, seed=seed, dtype=dtype, _do_init=False)
        wanted = shapes(model.module.config)
        other = [name for name, value in found.items() if name in wanted and tuple(value.shape) != wanted[name]]
        if other and not ignore_mismatched_sizes:
            pairs = "; ".join(f"{name} is {tuple(found[name].shape)}, not {wanted[name]}" for name in other[:3])
            raise ValueError(f"{source} does not fit the config: {pairs}; ignore_mismatched_sizes=True makes these new")
        kept = {name: jnp.asarray(found[name]) for name in wanted if name in found and name not in other}
        model._missing_keys = set(wanted) - set(kept)
        if model._missing_keys:
            names = ", ".join(sorted(model._missing_keys))
            warnings.warn(f"newly initialised, {source} has none that fit: {names}; train before use", stacklevel=2)
        params = model.init_weights(model.key, model.input_shape, nest(kept))
        if not _do_init:
            return model, params
        model._is_initialized, model._params = True, params
        return model

    def save_pretrained(self, folder: Any, params: Params | None = None) -> None:
        """Writes `config.json` and `model.safetensors` under Hugging Face's names: PyTorch's classes open it too."""
        write(folder, self.config, self.module.config, self.params if params is None else params)


class FlaxViTModel(FlaxViTPreTrainedModel):
    """The ViT with a pooler; returns tokens after the final norm and the pooled class token."""

    classifier = False

    def _output(self, tokens: jax.Array, last: jax.Array, **more: Any) -> FlaxBaseModelOutputWithPooling:
        return FlaxBaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=last, **more)


class FlaxViTForImageClassification(FlaxViTPreTrainedModel):
    """The ViT with a linear classifier of the class token."""

    classifier = True

    def _output(self, tokens: jax.Array, last: jax.Array, **more: Any) -> FlaxSequenceClassifierOutput:
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
) -> tuple[Any, Any, tuple[Any, ...] | None, tuple[Any, ...] | None]:
    """Tokens, what is after the pooling, and the hidden states and attentions where `capture` asks for them."""

    def run(bound: ViT, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        features = bound.features(images, train=train)
        return features.tokens, bound.classify(features)

    images = jnp.transpose(pixel_values, (0, 2, 3, 1))
    rngs = {} if dropout_rng is None else {"dropout": dropout_rng}
    (tokens, last), state = module.apply({"params": params}, images, rngs=rngs, method=run, mutable=["intermediates"])
    found = state["intermediates"]["Transformer"]
    blocks = [found[f"encoderblock_{index}"] for index in range(module.config.depth)]
    hidden_states = (found["embedded"][0], *(block["hidden_state"][0] for block in blocks))
    attentions = tuple(block["MultiHeadDotProductAttention_0"]["attention"][0] for block in blocks)
    return tokens, last, hidden_states if capture[0] else None, attentions if capture[1] else None


def _cast(params: Params, dtype: DTypeLike, mask: Any) -> Params:
    def change(value: Any, chosen: bool = True) -> Any:
        return value.astype(dtype) if chosen and jnp.issubdtype(value.dtype, jnp.floating) else value

    return jax.tree.map(change, params) if mask is None else jax.tree.map(change, params, mask)
