"""Attributes that tell transformers, its Trainer and Accelerate which features a model supports."""

from abc import ABC
from collections.abc import Mapping
from typing import ClassVar

from torch import nn


class Capabilities(nn.Module, ABC):
    """The features that a model supports. The names are those of transformers' `PreTrainedModel`."""

    # Attention implementations: "eager" and "sdpa". The latter includes PyTorch's flash kernel.
    _supports_sdpa: ClassVar[bool] = True
    _supports_flash_attn: ClassVar[bool] = False
    _supports_flex_attn: ClassVar[bool] = False
    _supports_attention_backend: ClassVar[bool] = False
    _can_compile_fullgraph: ClassVar[bool] = True
    # Modules whose outputs transformers can record; here `forward` returns them.
    _can_record_outputs: ClassVar[Mapping[str, type[nn.Module]] | None] = None
    # Parameters that need special treatment in loading and saving: none.
    _keep_in_fp32_modules: ClassVar[frozenset[str]] = frozenset()
    _keep_in_fp32_modules_strict: ClassVar[frozenset[str]] = frozenset()
    _keys_to_ignore_on_load_missing: ClassVar[frozenset[str]] = frozenset()
    _keys_to_ignore_on_load_unexpected: ClassVar[frozenset[str]] = frozenset()
    _skip_keys_device_placement: ClassVar[frozenset[str]] = frozenset()
    all_tied_weights_keys: ClassVar[Mapping[str, str]] = {}
    # Plans of tensor and pipeline parallelism: none.
    _tp_plan: ClassVar[Mapping[str, str]] = {}
    _pp_plan: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """Returns True: `set_attn_implementation` works for every model."""
        return True

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        """Returns False: no model has experts."""
        return False

    @classmethod
    def is_remote_code(cls) -> bool:
        """Returns False: the class is part of an installed package."""
        return False
