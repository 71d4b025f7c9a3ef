"""Implements `FlaxViTModel` and `FlaxViTForImageClassification` of transformers 4.

Signatures, outputs, methods and parameter names are those of transformers 4.57, its last release with Flax.
Improvements: any image size, square or not; hidden states also without `return_dict`; a single compiled call;
checkpoints of every project; activation checkpointing.
"""

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.core import unfreeze
from jax.typing import ArrayLike, DTypeLike

from vitkit.config import nearest
from vitkit.jax.convert import Params, PyTree, flatten, nest
from vitkit.jax.outputs import FlaxBaseModelOutputWithPooling, FlaxSequenceClassifierOutput, Output
from vitkit.jax.vit import ViT
from vitkit.transformers import hub
from vitkit.transformers.configuration import ViTConfig
from vitkit.transformers.flax_config import Attributes, model_config
from vitkit.transformers.flax_loading import read, write
from vitkit.transformers.flax_tree import FlaxViTModule, prefixed
from vitkit.transformers.hub import Argument
from vitkit.transformers.matching import check_size

NO_PARAMS = (
    "`params` cannot be {} when the model is created with `_do_init=False`. Call `init_weights`, store the params "
    "outside of the model, and pass them explicitly where needed."
)


class FlaxViTPreTrainedModel(ABC):
    """Base class of the Flax models: parameters, compiled forward pass, loading, saving and dtype casts.

    `config` is a ViTConfig or any object with its attributes. With `_do_init=False` the model stores no parameters:
    create them with `init_weights` and pass them to every call.
    """

    config_class: ClassVar[type[ViTConfig]] = ViTConfig
    base_model_prefix: ClassVar[str] = "vit"
    main_input_name: ClassVar[str] = "pixel_values"
    framework: ClassVar[str] = "flax"
    classifier: ClassVar[bool]

    def __init__(
        self,
        config: Attributes,
        input_shape: tuple[int, ...] | None = None,
        seed: int = 0,
        dtype: DTypeLike = jnp.float32,
        _do_init: bool = True,
        **kwargs: Argument,
    ):
        if config is None:
            raise ValueError("config cannot be None")
        _check_arguments(type(self), kwargs)
        pooling = kwargs.get("add_pooling_layer", True)
        settings = model_config(config, classifier=self.classifier, pooling=pooling)
        self.config = config
        self.dtype = dtype
        self.seed = seed
        self.key = jax.random.key(seed)
        self.module = FlaxViTModule(ViT(settings, dtype=dtype), self.classifier, config, self._output)
        self.input_shape = input_shape or (1, *settings.image_size, config.num_channels)
        self.params_shape_tree = nest(self.module.shapes())
        self._missing_keys: set[tuple[str, ...]] = set()
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
        """Returns the output for images (b, c, height, width), as a tuple if `return_dict` is False.

        `params` replace the stored parameters. Training needs `dropout_rng` if the config has any dropout.
        """
        config = self.config
        attentions = getattr(config, "output_attentions", False) if output_attentions is None else output_attentions
        hidden = (
            getattr(config, "output_hidden_states", False) if output_hidden_states is None else output_hidden_states
        )
        as_dict = getattr(config, "return_dict", True) if return_dict is None else return_dict
        return self.module.run(
            params or self.params,
            jnp.transpose(jnp.asarray(pixel_values, jnp.float32), (0, 2, 3, 1)),
            dropout_rng,
            train=train,
            capture=(bool(hidden), bool(attentions)),
            return_dict=as_dict,
        )

    @property
    def params(self) -> Params:
        """The parameters as nested dicts. Raises ValueError for a model with `_do_init=False`."""
        if self._params is None:
            raise ValueError(NO_PARAMS.format("accessed from model"))
        return self._params

    @params.setter
    def params(self, params: Mapping[str, PyTree]) -> None:
        """Replaces the parameters. Raises ValueError if the new parameters do not match the config."""
        if not self._is_initialized:
            raise ValueError(NO_PARAMS.format("set from model"))
        params = unfreeze(params)  # type: ignore[arg-type]
        expected, given = self.module.shapes(), {name: tuple(np.shape(each)) for name, each in flatten(params).items()}
        if missing := sorted(set(expected) - set(given)):
            raise ValueError(
                "Some parameters are missing. Make sure that `params` include the following parameters "
                f"{', '.join(missing)}"
            )
        if unknown := sorted(set(given) - set(expected)):
            raise ValueError(f"`params` has unknown parameters: {', '.join(unknown[:3])}; remove them")
        if wrong := [name for name, shape in expected.items() if given[name] != shape]:
            pairs = (f"{name} has shape {given[name]}, expected {expected[name]}" for name in wrong[:3])
            raise ValueError(f"`params` does not match the config: {'; '.join(pairs)}")
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
        given = flatten(unfreeze(params)) if params else {}  # type: ignore[arg-type]
        return nest(self.module.initial(rng, given) | given)

    def enable_gradient_checkpointing(self) -> None:
        """Enables activation checkpointing: the backward pass recomputes the activations of each block."""
        self.module = replace(self.module, vit=ViT(self.module.vit.config, dtype=self.dtype, remat=True))

    @classmethod
    def can_generate(cls) -> bool:
        """Returns False, because image models do not generate text."""
        return False

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
    def from_config(cls, config: Attributes, **kwargs: Argument) -> Any:
        """Creates a randomly initialized model. `kwargs` are those of the constructor."""
        return cls(config, **kwargs)

    _from_config = from_config

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        dtype: DTypeLike = jnp.float32,
        *,
        config: Attributes = None,
        ignore_mismatched_sizes: bool = False,
        from_pt: bool = False,
        _do_init: bool = True,
        **kwargs: Argument,
    ) -> Any:
        """Loads a model from a folder, a Hub id or any file that `vitkit.jax.load` supports.

        `kwargs` are those of `hub.locate` (revision, cache_dir, token, ...), attributes that replace those of the saved
        config (`num_labels=10`), and arguments of the constructor. `dtype` is that of the computations. Missing
        parameters are initialized, with a warning. With `from_pt`, `flax_model.msgpack` is not read. Returns (model,
        params) if `_do_init=False`. Raises OSError if there is no checkpoint, TypeError for an unknown argument, and
        ValueError for mismatched shapes unless `ignore_mismatched_sizes`.
        """
        source = pretrained_model_name_or_path
        config, loaded, kwargs = read(source, config, cls, kwargs, from_pt=from_pt)
        model = cls(config, dtype=dtype, _do_init=False, **kwargs)
        expected = model.module.shapes()
        given = {prefixed(name, classifier=cls.classifier): value for name, value in loaded.items()}
        wrong = [name for name in expected if name in given and tuple(given[name].shape) != expected[name]]
        if wrong and not ignore_mismatched_sizes:
            raise ValueError(
                f"Trying to load the pretrained weight for {wrong[0]} failed: checkpoint has shape "
                f"{tuple(given[wrong[0]].shape)} which is incompatible with the model shape {expected[wrong[0]]}. Use "
                "`ignore_mismatched_sizes=True` if you really want to load this checkpoint inside this model."
            )
        used = {name: jnp.asarray(given[name]) for name in expected if name in given and name not in wrong}
        missing = sorted(set(expected) - set(used))
        check_size({name: expected[name] for name in missing}, sum(each.size for each in used.values()), cls.__name__)
        model._missing_keys = {tuple(name.split("/")) for name in missing}
        if missing:
            warnings.warn(
                f"newly initialized, train before use: {', '.join(missing)} (missing or mismatched in {source})",
                stacklevel=2,
            )
        params = model.init_weights(model.key, model.input_shape, nest(used))
        if not _do_init:
            return model, params
        model._is_initialized, model._params = True, params
        return model

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        params: Params | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "10GB",
        token: str | bool | None = None,
        safe_serialization: bool = True,
        **hub_options: Argument,
    ) -> None:
        """Saves config.json and model.safetensors, which the PyTorch classes can also load.

        With `safe_serialization=False`, saves `flax_model.msgpack`, the default of transformers 4. `max_shard_size` is
        accepted and has no effect: there is one file. If `push_to_hub`, uploads it with the options of
        `hub.push_folder`.
        """
        params = self.params if params is None else params
        files = write(save_directory, type(self).__name__, self.config, params, as_msgpack=not safe_serialization)
        if push_to_hub:
            hub.push_folder(hub.make_folder(save_directory), files, token=token, **hub_options)

    def push_to_hub(self, repo_id: str, **options: Argument) -> str:
        """Uploads the files of `save_pretrained` and returns the URL of the commit.

        Takes the options of `hub.push` and `save_pretrained`.
        """
        return hub.push(self.save_pretrained, repo_id, **options)


class FlaxViTModel(FlaxViTPreTrainedModel):
    """ViT that returns the tokens after the final norm and the pooled class token.

    With `add_pooling_layer=False` it has no pooler, and `pooler_output` is None.
    """

    classifier = False

    def _output(
        self, tokens: jax.Array, last: jax.Array, **more: tuple[jax.Array, ...] | None
    ) -> FlaxBaseModelOutputWithPooling:
        pooled = last if self.module.vit.config.pre_logits else None
        return FlaxBaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=pooled, **more)


class FlaxViTForImageClassification(FlaxViTPreTrainedModel):
    """ViT with a linear classifier on the class token."""

    classifier = True

    def _output(
        self, tokens: jax.Array, last: jax.Array, **more: tuple[jax.Array, ...] | None
    ) -> FlaxSequenceClassifierOutput:
        return FlaxSequenceClassifierOutput(logits=last, **more)


def _check_arguments(model_class: type[FlaxViTPreTrainedModel], kwargs: Mapping[str, Argument]) -> None:
    known = [] if model_class.classifier else ["add_pooling_layer"]
    attributes = list(model_class.config_class().to_dict())
    for name in kwargs:
        if name not in known:
            raise TypeError(
                f"{model_class.__name__} got an unexpected keyword argument '{name}'"
                f"{nearest(name, ['seed', 'input_shape', *known, 'num_labels', *attributes])}"
            )


def _cast(params: Params, dtype: DTypeLike, mask: Params | None) -> Params:
    def cast(value: jax.Array, selected: bool = True) -> jax.Array:
        return value.astype(dtype) if selected and jnp.issubdtype(value.dtype, jnp.floating) else value

    return jax.tree.map(cast, params) if mask is None else jax.tree.map(cast, params, mask)
