"""Adapters of PEFT, such as LoRA: the methods of transformers' `PeftAdapterMixin`. Needs the package peft."""

import importlib.metadata
import importlib.util
import logging
from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from vitkit.transformers import adapter_files
from vitkit.transformers.hub import Argument
from vitkit.transformers.names import ATTENTION, MLP, Names

logger = logging.getLogger("vitkit.transformers")

# A `peft.PeftConfig`. peft is imported when a method needs it.
AdapterConfig = Any
# The oldest version of PEFT that transformers 4.57 accepts.
MIN_PEFT = (0, 5, 0)
NOT_LOADED = "No adapter loaded. Please load an adapter first."


class KeyMapping(Mapping[str, str]):
    """Regular expressions that convert the keys of an adapter to the current `name_format` of a model."""

    def __init__(self, model: Any):
        self.model = model

    def _patterns(self) -> dict[str, str]:
        names: Names = self.model.base_model.names
        patterns = {}
        for first, second in names.layers.items():
            for pair in names.inside.items():
                (source, target), (old, new) = ((first, second), pair)
                if self.model.name_format == "v5":
                    source, target, old, new = target, source, new, old
                source, old = (each.replace(".", r"\.") for each in (source, old))
                patterns[rf"(^|\.){source}\.(\d+)\.{old}(?=\.)"] = rf"\g<1>{target}.\g<2>.{new}"
        return patterns

    def __getitem__(self, pattern: str) -> str:
        return self._patterns()[pattern]

    def __iter__(self) -> Iterator[str]:
        return iter(self._patterns())

    def __len__(self) -> int:
        return len(self._patterns())


def check_peft() -> None:
    """Raises ValueError if peft is not installed or too old, as transformers does."""
    if importlib.util.find_spec("peft") is None:
        raise ValueError("PEFT is not installed. Please install it with `pip install peft`")
    version = importlib.metadata.version("peft")
    if tuple(int(part) for part in version.split(".")[:3] if part.isdigit()) < MIN_PEFT:
        oldest = ".".join(map(str, MIN_PEFT))
        raise ValueError(f"The version of PEFT you are using is not compatible, please use a version >= {oldest}")


class Adapters(nn.Module, ABC):
    """Mixin of models with methods to add, load, select and remove adapters.

    It also has the attributes that PEFT reads and sets.
    """

    _adapters: dict[str, AdapterConfig] | None = None
    # transformers, its Trainer and Accelerate read this attribute.
    _hf_peft_config_loaded: bool = False
    _hotswap_enabled: bool = False

    @property
    def _checkpoint_conversion_mapping(self) -> KeyMapping:
        """The conversion of adapter keys, which PEFT applies to the files that it loads."""
        return KeyMapping(self)

    @property
    def peft_config(self) -> dict[str, AdapterConfig]:
        """The configs of the adapters of this model. Raises AttributeError if the model has no adapters."""
        if self._adapters is None:
            raise AttributeError("the model has no adapters")
        return self._adapters

    @peft_config.setter
    def peft_config(self, configs: dict[str, AdapterConfig]) -> None:
        """Stores the adapter configs, and sets the name format of the model to that of their `target_modules`.

        The keys in the file of an adapter are names of modules, which must have the same format as `target_modules`.
        """
        self._adapters = configs
        model: Any = self
        last = {v5.rpartition(".")[2]: v4.rpartition(".")[2] for v5, v4 in (ATTENTION | MLP).items()}
        for config in configs.values():
            targets = getattr(config, "target_modules", None) or ()
            named = {target.rpartition(".")[2] for target in ([] if isinstance(targets, str) else targets)}
            if named & set(last):
                model.name_format = "v5"
            elif named & set(last.values()):
                model.name_format = "v4"

    @peft_config.deleter
    def peft_config(self) -> None:
        """Removes the adapter configs."""
        self._adapters = None

    def add_adapter(self, adapter_config: AdapterConfig, adapter_name: str | None = None) -> None:
        """Adds a new adapter with random weights, and activates it. The default name is "default".

        Raises ValueError if the model has an adapter of this name. Raises TypeError if the config is not a PeftConfig.
        """
        check_peft()
        from peft import PeftConfig, inject_adapter_in_model

        name = adapter_name or "default"
        self._check_new(name)
        if not isinstance(adapter_config, PeftConfig):
            raise TypeError(f"adapter_config should be an instance of PeftConfig. Got {type(adapter_config)} instead.")
        adapter_config.base_model_name_or_path = self.__dict__.get("name_or_path", None)
        inject_adapter_in_model(adapter_config, self, name)
        self._hf_peft_config_loaded = True
        self.set_adapter(name)

    def _check_new(self, name: str) -> None:
        if self._hf_peft_config_loaded and name in self.peft_config:
            raise ValueError(f"Adapter with name {name} already exists. Please use a different name.")

    def load_adapter(
        self,
        peft_model_id: str | None = None,
        adapter_name: str | None = None,
        *,
        peft_config: AdapterConfig | None = None,
        adapter_state_dict: Mapping[str, Tensor] | None = None,
        is_trainable: bool = False,
        hotswap: bool | str = "auto",
        adapter_kwargs: Mapping[str, Argument] | None = None,
        **options: Argument,
    ) -> Any:
        """Loads an adapter from a folder or Hub id, or from a config and a state dict. Returns the missing keys.

        adapter_name        name of the adapter; the default is "default"
        is_trainable        if False, the adapter is frozen and the model is set to evaluation mode
        hotswap             replaces the weights of the adapter with the same name; "auto" does it after
                            `enable_peft_hotswap`
        adapter_kwargs      download options, as in `options`: revision, token, cache_dir, local_files_only, subfolder

        Raises ValueError if the name exists and `hotswap` is False, and if there is no adapter to load.
        """
        check_peft()
        name = adapter_name or "default"
        exists = self._hf_peft_config_loaded and name in self.peft_config
        swap = self._hotswap_enabled and exists if hotswap == "auto" else bool(hotswap)
        if swap and not exists:
            raise ValueError(
                "To hotswap an adapter, there must already be an existing adapter with the same adapter name."
            )
        if swap and any(config.peft_type != "LORA" for config in self.peft_config.values()):
            raise ValueError("Hotswapping is currently only supported for LoRA, please set `hotswap=False`.")
        if not swap:
            self._check_new(name)
        location = adapter_files.locate(peft_model_id, {**options, **(adapter_kwargs or {})})
        if location is None and (adapter_state_dict is None or peft_config is None):
            raise ValueError(
                "You should either pass a `peft_model_id` or a `peft_config` and `adapter_state_dict` to load an "
                "adapter."
            )
        config = adapter_files.read_config(location) if peft_config is None else peft_config
        config.inference_mode = not is_trainable
        tensors = adapter_files.read_tensors(location) if adapter_state_dict is None else adapter_state_dict
        report = adapter_files.apply(self, config, tensors, name, inject=not swap)
        self._hf_peft_config_loaded = True
        if not is_trainable:
            self.eval()
            for layer in self._tuner_layers():
                layer.requires_grad_(False)
        source = "the state dict" if location is None else location.source
        if report.missing_keys or report.unexpected_keys:
            logger.warning(
                f"adapter weights from {source}: missing {sorted(report.missing_keys)}, unexpected "
                f"{sorted(report.unexpected_keys)}"
            )
        return report

    def enable_peft_hotswap(self, target_rank: int = 128, check_compiled: str = "error") -> None:
        """Makes `load_adapter` replace the weights of an adapter with the same name. Call it before the first adapter.

        `check_compiled` is "error", "warn" or "ignore", and says what happens if the model already has adapters. All
        adapters need the same rank; `target_rank` is accepted for compatibility and has no effect.
        """
        if self._adapters:
            message = "Call `enable_peft_hotswap` before loading the first adapter"
            if check_compiled == "error":
                raise RuntimeError(f"{message}.")
            if check_compiled == "warn":
                logger.warning(f"{message} to avoid recompilation.")
            elif check_compiled != "ignore":
                raise ValueError(
                    f"check_compiles should be one of 'error', 'warn', or 'ignore', got '{check_compiled}' instead."
                )
        self._hotswap_enabled = True

    def _tuner_layers(self, *, with_saved: bool = False) -> list[Any]:
        """Returns the adapter layers. With `with_saved`, also returns the modules of `modules_to_save`.

        Raises ValueError if peft is missing or no adapter is loaded.
        """
        check_peft()
        if not self._hf_peft_config_loaded:
            raise ValueError(NOT_LOADED)
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils import ModulesToSaveWrapper

        kinds = (BaseTunerLayer, ModulesToSaveWrapper) if with_saved else (BaseTunerLayer,)
        return [module for module in self.modules() if isinstance(module, kinds)]

    def set_adapter(self, adapter_name: str | list[str]) -> None:
        """Activates an adapter, or several, and deactivates the others. Raises ValueError for an unknown name."""
        layers = self._tuner_layers(with_saved=True)
        known = list(self.peft_config)
        if isinstance(adapter_name, list):
            if missing := sorted(set(adapter_name) - set(known)):
                raise ValueError(
                    f"Following adapter(s) could not be found: {', '.join(missing)}. Make sure you are passing the "
                    f"correct adapter name(s). current loaded adapters are: {known}"
                )
        elif adapter_name not in known:
            raise ValueError(
                f"Adapter with name {adapter_name} not found. Please pass the correct adapter name among {known}"
            )
        for layer in layers:
            layer.set_adapter(adapter_name)
        if not layers:
            raise ValueError(
                "Did not succeeded in setting the adapter. Please make sure you are using a model that supports "
                "adapters."
            )

    def disable_adapters(self) -> None:
        """Disables all adapters, so that the outputs are those of the base model."""
        for layer in self._tuner_layers(with_saved=True):
            layer.enable_adapters(enabled=False)

    def enable_adapters(self) -> None:
        """Enables the adapters that `disable_adapters` disabled."""
        for layer in self._tuner_layers():
            layer.enable_adapters(enabled=True)

    def active_adapters(self) -> list[str]:
        """Returns the names of the active adapters."""
        active = self._tuner_layers()[0].active_adapter
        return [active] if isinstance(active, str) else list(active)

    def get_adapter_state_dict(
        self, adapter_name: str | None = None, state_dict: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Returns the weights of an adapter.

        `adapter_name` defaults to the active adapter, and `state_dict` to that of the model.
        """
        self._tuner_layers()
        from peft import get_peft_model_state_dict

        name = adapter_name or self.active_adapters()[0]
        return get_peft_model_state_dict(self, state_dict=state_dict, adapter_name=name)

    def delete_adapter(self, adapter_names: str | Sequence[str]) -> None:
        """Removes adapters. Raises ValueError for an unknown name."""
        self._tuner_layers()
        from peft.functional import delete_adapter

        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        if missing := [name for name in names if name not in self.peft_config]:
            raise ValueError(f"The following adapter(s) are not present and cannot be deleted: {', '.join(missing)}")
        for name in names:
            delete_adapter(self, adapter_name=name, prefix=f"{self.peft_config[name].peft_type.value.lower()}_")
            self.peft_config.pop(name, None)
        if not self.peft_config:
            del self.peft_config
            self._hf_peft_config_loaded = False
