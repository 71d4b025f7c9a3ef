"""`ViTPreTrainedModel`: what the ViT classes share, with the interface of transformers' `PreTrainedModel`."""

import copy
import os
from abc import ABC
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vitkit.transformers import hub, loading
from vitkit.transformers.configuration import ViTConfig
from vitkit.transformers.modules import IMPLEMENTATIONS, ViTEmbeddings
from vitkit.transformers.names import DIALECTS


class ViTPreTrainedModel(nn.Module, ABC):
    """A model with a `ViTConfig`; abstract, its kinds are `ViTModel` and the two with a head on one, under `vit`."""

    config_class: ClassVar[type[ViTConfig]] = ViTConfig
    base_model_prefix: ClassVar[str] = "vit"
    main_input_name: ClassVar[str] = "pixel_values"
    # What Trainer, Accelerate and PEFT ask of a model of transformers.
    accepts_loss_kwargs: ClassVar[bool] = False
    supports_gradient_checkpointing: ClassVar[bool] = True
    model_tags: ClassVar[list[str] | None] = None
    _no_split_modules: ClassVar[list[str]] = ["ViTEmbeddings", "ViTLayer"]
    _keys_to_ignore_on_save: ClassVar[list[str] | None] = None
    _tied_weights_keys: ClassVar[Mapping[str, str] | None] = None

    def __init__(self, config: ViTConfig):
        super().__init__()
        if not isinstance(config, ViTConfig):
            raise TypeError(
                f"{type(self).__name__} takes a vitkit.ViTConfig, not {type(config).__module__}.{type(config).__name__}"
            )
        self.config = config
        self.name_or_path = config.name_or_path
        self._check_implementation(config._attn_implementation or "sdpa")

    def finish(self) -> None:
        """The end of every constructor: fresh weights, and the heads cut that the config says are gone."""
        base = self.base_model
        if base is not self:
            head = [child for child in self.children() if child is not base]
            self.init_weights(module for child in head for module in child.modules())
            return
        self.init_weights()
        for layer, heads in (getattr(self.config, "pruned_heads", None) or {}).items():
            base.attention_of(int(layer)).prune_heads(heads)

    @torch.no_grad()
    def init_weights(self, only: Iterable[nn.Module] | None = None) -> None:
        """Fresh weights for every module, or for some: normal cut at plus and minus 2, biases and mask token zero."""
        std = self.config.initializer_range
        for module in self.modules() if only is None else only:
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, ViTEmbeddings):
                nn.init.trunc_normal_(module.cls_token, std=std)
                nn.init.trunc_normal_(module.position_embeddings, std=std)
                if module.mask_token is not None:
                    nn.init.zeros_(module.mask_token)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *model_args: Any, **kwargs: Any
    ) -> Any:
        """The model of a folder or a hub id, in evaluation mode; see `loading.load` for every argument."""
        return loading.load(cls, pretrained_model_name_or_path, *model_args, **kwargs)

    @classmethod
    def from_config(cls, config: ViTConfig, **kwargs: Any) -> Any:
        """A fresh model of a copy of the config; `attn_implementation`, `dtype` and arguments of the constructor."""
        config = copy.deepcopy(config)
        config._attn_implementation = kwargs.pop("attn_implementation", config._attn_implementation)
        dtype = kwargs.pop("torch_dtype", None) or kwargs.pop("dtype", None) or config.dtype
        model = cls(config, **kwargs)
        return model if dtype in (None, "auto") else model.to(loading.named_dtype(dtype))

    _from_config = from_config

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """Writes config.json and model.safetensors; see `saving.save` for every option."""
        loading.save(self, save_directory, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads what `save_pretrained` writes; options of `hub.push` and `saving.save`. The address of the commit."""
        return hub.push(self.save_pretrained, repo_id, **options)

    @property
    def base_model(self) -> Any:
        """The model without its head."""
        return getattr(self, self.base_model_prefix, self)  # type: ignore[return-value]

    @property
    def dialect(self) -> str:
        """Which names `state_dict` gives: "v5" (those of the modules) or "v4" (those before transformers 5.9)."""
        return self.base_model.names

    @dialect.setter
    def dialect(self, name: str) -> None:
        """ValueError for a name that is no dialect."""
        if name not in DIALECTS:
            raise ValueError(f"unknown dialect of parameter names '{name}'; there is {', '.join(DIALECTS)}")
        self.base_model.names = name

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters."""
        return next(parameter.dtype for parameter in self.parameters() if parameter.is_floating_point())

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many numbers there are to learn; patches and positions always count, as in transformers."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of parameters and buffers."""
        held: list[Tensor] = [*self.parameters(), *(self.buffers() if return_buffers else [])]
        return sum(tensor.nbytes for tensor in held)

    def get_input_embeddings(self) -> nn.Module:
        """The patch projection."""
        return self.base_model.embeddings.patch_embeddings

    def get_output_embeddings(self) -> None:
        """There are none."""
        return

    def tie_weights(self) -> None:
        """No weights are tied; there for code that calls it."""

    def can_generate(self) -> bool:
        """Whether it writes text: never."""
        return False

    def enable_input_require_grads(self) -> None:
        """Makes the patches require gradients, so that adapters train below frozen layers that are checkpointed."""
        self._grad_hook = self.get_input_embeddings().register_forward_hook(
            lambda module, inputs, output: output.requires_grad_(True)
        )

    def disable_input_require_grads(self) -> None:
        """Undoes `enable_input_require_grads`."""
        self._grad_hook.remove()

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Recomputes layers in the backward pass instead of keeping them: every layer, or every n-th.

        The mapping holds options of `torch.utils.checkpoint.checkpoint`. ValueError for `offload`, which there is not.
        """
        if offload:
            raise ValueError("activations are not offloaded here: offload=False")
        options = {"use_reentrant": False, **(activation_checkpointing_kwargs or {})}
        self.base_model.checkpointing = (every_n_layers, options)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """The older name of `activation_checkpointing_enable`."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    def activation_checkpointing_disable(self) -> None:
        """Keeps activations again."""
        self.base_model.checkpointing = None

    gradient_checkpointing_disable = activation_checkpointing_disable

    @property
    def is_activation_checkpointing(self) -> bool:
        """Whether layers are recomputed in the backward pass."""
        return self.base_model.checkpointing is not None

    @property
    def is_gradient_checkpointing(self) -> bool:
        """The older name of `is_activation_checkpointing`."""
        return self.is_activation_checkpointing

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """Uses "sdpa" (the fused kernel, flash attention where the hardware has it) or "eager" (step by step)."""
        self._check_implementation(attn_implementation)

    def _check_implementation(self, name: str) -> None:
        if name not in IMPLEMENTATIONS:
            hint = "; sdpa runs the flash kernel by itself" if name.startswith("flash") else ""
            raise ValueError(f"unknown attn_implementation '{name}'; there is {', '.join(IMPLEMENTATIONS)}{hint}")
        self.config._attn_implementation = name

    def prune_heads(self, heads_to_prune: Mapping[int, Iterable[int]]) -> None:
        """Takes heads out for good, layer by layer; the config remembers them, so that a saved model loads pruned."""
        pruned = {int(layer): set(heads) for layer, heads in (getattr(self.config, "pruned_heads", None) or {}).items()}
        for layer, heads in heads_to_prune.items():
            attention = self.base_model.attention_of(layer)
            attention.prune_heads(heads)
            pruned[layer] = attention.pruned_heads | pruned.get(layer, set())
        self.config.pruned_heads = {layer: sorted(heads) for layer, heads in sorted(pruned.items())}
