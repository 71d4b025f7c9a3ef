"""`PreTrainedModel`, the base class of all models with the API of transformers, and `ViTPreTrainedModel`."""

import copy
import os
from abc import ABC
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from vitkit.checkpoints.tensors import Tensors
from vitkit.transformers import hub, loading
from vitkit.transformers import names as name_formats
from vitkit.transformers.adapters import Adapters
from vitkit.transformers.attention import IMPLEMENTATIONS
from vitkit.transformers.capabilities import Capabilities
from vitkit.transformers.checkpointing import ActivationCheckpointing
from vitkit.transformers.config_values import parse_dtype
from vitkit.transformers.configuration import PretrainedConfig, ViTConfig
from vitkit.transformers.hub import Argument
from vitkit.transformers.initialization import Initialization
from vitkit.transformers.names import NAME_FORMATS, Names
from vitkit.transformers.properties import PropertyModule
from vitkit.transformers.recognition import recognized_class


class PreTrainedModel(Adapters, Initialization, ActivationCheckpointing, Capabilities, PropertyModule, ABC):
    """Base class of all models.

    A model with a head stores its base model in the attribute named by `base_model_prefix`. A subclass sets
    `config_class` and `base_model_prefix`, calls `post_init` at the end of its constructor, and may override
    `_init_weights`, which initializes the parameters of one module.
    """

    config_class: ClassVar[type[PretrainedConfig]]
    base_model_prefix: ClassVar[str] = ""
    main_input_name: ClassVar[str] = "pixel_values"
    # The names of the modules that differ between transformers 4 and 5, without those of inner models.
    names: ClassVar[Names] = Names()
    # Attributes that Trainer, Accelerate and PEFT read.
    accepts_loss_kwargs: ClassVar[bool] = False
    model_tags: list[str] | None = None
    _no_split_modules: ClassVar[list[str]] = []
    _loss_function: Callable[..., Tensor]
    _name_format: str = "v4"
    _keys_to_ignore_on_save: ClassVar[list[str] | None] = None
    _tied_weights_keys: ClassVar[Mapping[str, str] | None] = None

    def __init__(self, config: PretrainedConfig, *args: object, **kwargs: object):
        super().__init__()
        self.config: Any = self._as_config(config)
        self.name_or_path = self.config.name_or_path
        self._check_implementation(self.config._attn_implementation or "sdpa")
        self.register_load_state_dict_pre_hook(name_formats.accept_both_formats)
        self.register_load_state_dict_post_hook(name_formats.report_name_format)
        self.register_state_dict_post_hook(name_formats.write_name_format)

    @property
    def __class__(self) -> Any:  # type: ignore[override]
        """The class. If transformers is imported, a subclass that also inherits from its `PreTrainedModel`."""
        return recognized_class(type(self), "transformers.modeling_utils", "PreTrainedModel")

    def __reduce__(self) -> tuple[Any, ...]:
        # pickle would compare `__class__` with the type.
        return _create, (type(self),), self.__dict__

    @classmethod
    def _as_config(cls, config: PretrainedConfig) -> PretrainedConfig:
        """Returns a config of `config_class`. Converts a config of transformers with the same model_type."""
        own = cls.config_class
        if isinstance(config, own):
            return config
        if getattr(config, "model_type", None) == own.model_type and hasattr(config, "to_dict"):
            implementation = getattr(config, "_attn_implementation", None)
            implementation = implementation if implementation in IMPLEMENTATIONS else None
            name = getattr(config, "_name_or_path", "")
            return own.from_dict(config.to_dict(), attn_implementation=implementation, name_or_path=name)
        raise TypeError(
            f"{cls.__name__} takes a vitkit.{own.__name__}, not {type(config).__module__}.{type(config).__name__}"
        )

    def post_init(self) -> None:
        """Initializes new modules and prunes `config.pruned_heads`. Called at the end of every constructor."""
        super().post_init()
        if self.base_model is self:
            for layer, heads in (getattr(self.config, "pruned_heads", None) or {}).items():
                self.attention_of(int(layer)).prune_heads(heads)

    @classmethod
    def own_name(cls, name: str) -> str:
        """Converts a parameter name of any version of transformers, without prefix, to the name in the module tree."""
        return cls.names.to_v4(name)

    @classmethod
    def arrange(cls, tensors: Tensors) -> Tensors:
        """Converts loaded tensors, named as in the module tree, whose layout differs from that of the parameters."""
        return tensors

    @classmethod
    def split_for_v5(cls, state_dict: dict[str, Tensor], prefix: str) -> None:
        """Reverses `arrange` for a state dict with the names of transformers 5. Does nothing by default."""

    @property
    def name_format(self) -> str:
        """The format of the names in `state_dict`, `named_parameters` and `named_modules`: "v4" (default) or "v5".

        "v5" are the names of transformers 5.9 and later. Both formats can be loaded.
        """
        return self.base_model._name_format

    @name_format.setter
    def name_format(self, name: str) -> None:
        """Sets the name format of modules and parameters. Raises ValueError for formats other than "v4" and "v5"."""
        if name not in NAME_FORMATS:
            raise ValueError(f"unknown name_format '{name}'; expected one of {', '.join(NAME_FORMATS)}")
        for module in self.modules():
            if isinstance(module, PreTrainedModel):
                module._name_format = name

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Generator[tuple[str, nn.Module]]:
        """Yields all modules with their names in the `name_format` of the model."""
        found = super().named_modules(memo, prefix, remove_duplicate)
        yield from name_formats.named_modules(found, prefix, self._name_format, self.names)

    def attention_of(self, layer: int) -> Any:
        """Returns the attention module of a layer. Raises ValueError if heads of the model cannot be pruned."""
        raise ValueError(f"{type(self).__name__} does not support prune_heads")

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *model_args: Argument, **kwargs: Argument
    ) -> Any:
        """Loads a model in evaluation mode from a folder or Hub id. See `loading.load`."""
        return loading.load(cls, pretrained_model_name_or_path, *model_args, **kwargs)

    @classmethod
    def from_config(cls, config: PretrainedConfig, **kwargs: Argument) -> Self:
        """Creates a randomly initialized model from a copy of the config.

        `kwargs` may contain `attn_implementation`, `dtype` and arguments of the constructor.
        """
        config = copy.deepcopy(cls._as_config(config))
        config._attn_implementation = kwargs.pop("attn_implementation", config._attn_implementation)
        dtype = kwargs.pop("torch_dtype", None) or kwargs.pop("dtype", None) or config.dtype
        model = cls(config, **kwargs)
        return model if dtype in (None, "auto") else model.to(parse_dtype(dtype))

    _from_config = from_config

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Argument) -> None:
        """Saves config.json and model.safetensors. Takes the options of `loading.save`."""
        loading.save(self, save_directory, **options)

    def push_to_hub(self, repo_id: str, **options: Argument) -> str:
        """Uploads the files of `save_pretrained` and returns the URL of the commit.

        Takes the options of `hub.push` and `loading.save`.
        """
        return hub.push(self.save_pretrained, repo_id, tags=self.model_tags, **options)

    def add_model_tags(self, tags: str | list[str]) -> None:
        """Adds tags to the model card that `push_to_hub` uploads. Existing tags are not repeated.

        The list of tags belongs to the model, not to its class.
        """
        new = [tags] if isinstance(tags, str) else tags
        self.model_tags = list(dict.fromkeys([*(self.model_tags or []), *new]))

    def get_parameter_or_buffer(self, target: str) -> Any:
        """Returns a parameter, a buffer or the extra state of a module by its name in transformers 4 or 5.

        Raises AttributeError if there is none.
        """
        for get in (self.get_parameter, self.get_buffer):
            try:
                return get(target)
            except AttributeError:
                continue
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if name == "_extra_state" and type(module).get_extra_state is not nn.Module.get_extra_state:
            return module.get_extra_state()
        raise AttributeError(f"`{target}` is neither a parameter, buffer, nor extra state.")

    @property
    def base_model(self) -> Any:
        """The model without a head."""
        return getattr(self, self.base_model_prefix, self)

    @property
    def loss_function(self) -> Callable[..., Tensor]:
        """The loss function, called with labels, logits, config and `num_items_in_batch`. Can be replaced.

        Raises AttributeError for a model without a loss function.
        """
        return self._loss_function

    @loss_function.setter
    def loss_function(self, value: Callable[..., Tensor]) -> None:
        """Replaces the loss function."""
        object.__setattr__(self, "_loss_function", value)

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters."""
        return next(parameter.dtype for parameter in self.parameters() if parameter.is_floating_point())

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Returns the number of parameters. Embeddings are always included, as in transformers."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Returns the memory of parameters and buffers in bytes."""
        tensors: list[Tensor] = [*self.parameters(), *(self.buffers() if return_buffers else [])]
        return sum(tensor.nbytes for tensor in tensors)

    def get_input_embeddings(self) -> nn.Module:
        """Returns the patch embedding."""
        return self.base_model.embeddings.patch_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the patch embedding."""
        self.base_model.embeddings.patch_embeddings = value

    def get_output_embeddings(self) -> None:
        """Returns None, because image models have no output embeddings."""
        return

    def tie_weights(self, *args: object, **kwargs: object) -> None:
        """Does nothing, because image models have no tied weights."""

    @classmethod
    def can_generate(cls) -> bool:
        """Returns False, because image models do not generate text."""
        return False

    @classmethod
    def is_custom_code(cls) -> bool:
        """Returns True, so that transformers does not convert the parameter names, which are already those of files."""
        return True

    def enable_input_require_grads(self) -> None:
        """Makes the patch embeddings require gradients, as activation checkpointing with frozen layers needs it."""
        self._grad_hook = self.get_input_embeddings().register_forward_hook(
            lambda module, inputs, output: output.requires_grad_(True)
        )

    def disable_input_require_grads(self) -> None:
        """Reverts the effect of `enable_input_require_grads`."""
        self._grad_hook.remove()

    def set_attn_implementation(self, attn_implementation: str | Mapping[str, str]) -> None:
        """Selects the attention implementation: "sdpa" (fused kernels of PyTorch) or "eager" (matrix products).

        A dict has one entry, whose key is the empty string. Raises ValueError for another dict or implementation.
        """
        if isinstance(attn_implementation, Mapping):
            if set(attn_implementation) != {""}:
                raise ValueError(
                    f"attn_implementation has keys {', '.join(map(repr, attn_implementation))}; expected only '', "
                    "because the model has no submodels"
                )
            attn_implementation = attn_implementation[""]
        self._check_implementation(attn_implementation)

    def _check_implementation(self, name: str) -> None:
        if name not in IMPLEMENTATIONS:
            hint = "; sdpa includes the flash kernel" if name.startswith("flash") else ""
            known = ", ".join(IMPLEMENTATIONS)
            raise ValueError(
                f'Specified `attn_implementation="{name}"` is not supported; expected one of {known}{hint}'
            )
        self.config._attn_implementation = name

    def prune_heads(self, heads_to_prune: Mapping[int, Iterable[int]]) -> None:
        """Removes the given attention heads of each layer and stores the head indices in the config."""
        pruned = {int(layer): set(heads) for layer, heads in (getattr(self.config, "pruned_heads", None) or {}).items()}
        for layer, heads in heads_to_prune.items():
            attention = self.base_model.attention_of(layer)
            attention.prune_heads(heads)
            pruned[layer] = attention.pruned_heads | pruned.get(layer, set())
        self.config.pruned_heads = {layer: sorted(heads) for layer, heads in sorted(pruned.items())}


def _create(own: type[PreTrainedModel]) -> PreTrainedModel:
    return own.__new__(own)


class ViTPreTrainedModel(PreTrainedModel):
    """Base class of `ViTModel` and of the models with a head, which store a `ViTModel` as the attribute `vit`."""

    config_class: ClassVar[type[PretrainedConfig]] = ViTConfig
    base_model_prefix: ClassVar[str] = "vit"
    _no_split_modules: ClassVar[list[str]] = ["ViTEmbeddings", "ViTLayer"]

    @classmethod
    def own_name(cls, name: str) -> str:
        """Converts a parameter name of transformers 4 or 5 to the name in the module tree."""
        return name_formats.VIT.to_v4(name)
