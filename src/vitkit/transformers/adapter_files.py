"""Reads and writes the folders of PEFT adapters: adapter_config.json and adapter_model.safetensors."""

import importlib.util
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vitkit import atomic
from vitkit.checkpoints.containers import open_weights
from vitkit.transformers import hub
from vitkit.transformers.hub import Argument, Location

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# peft adds the prefix of its own model classes to the names of modules.
PREFIX = "base_model.model."
# `Model` is a `PreTrainedModel` with adapters, whose module imports this one. `AdapterConfig` is a `peft.PeftConfig`.
Model = Any
AdapterConfig = Any


@dataclass
class AdapterReport:
    """Keys of an adapter that are missing in its file, and keys of the file that the model does not have."""

    missing_keys: set[str] = field(default_factory=set)
    unexpected_keys: set[str] = field(default_factory=set)
    mismatched_keys: set[str] = field(default_factory=set)
    error_msgs: list[str] = field(default_factory=list)


def locate(source: str | os.PathLike[str] | None, options: Mapping[str, Argument]) -> Location | None:
    """Returns the location of an adapter, or None if `source` is None. `options` are those of `hub.locate`."""
    return None if source is None else hub.locate(source, options)[0]


def find(location: Location) -> Location | None:
    """Returns the location if it contains an adapter and peft is installed, else None."""
    if importlib.util.find_spec("peft") is None:
        return None
    try:
        path = location.find(CONFIG)
    except OSError:
        return None
    return location if path.name == CONFIG else None


def base_of(location: Location) -> Location:
    """Returns the location of the base model of an adapter.

    If the adapter has a config.json, it is the location of the adapter, else that of the model that adapter_config.json
    names.
    """
    with suppress(FileNotFoundError):
        location.find("config.json")
        return location
    base = location.read_json(CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(f"{location.source}/{CONFIG} has no base_model_name_or_path; load the base model first")
    return replace(location, source=base, subfolder="", options=_without_revision(location.options))


def _without_revision(options: Mapping[str, Argument]) -> dict[str, Argument]:
    """Returns download options without the revision, which applies to the adapter only."""
    return {name: value for name, value in options.items() if name != "revision"}


def read_config(location: Location | None) -> AdapterConfig:
    """Reads adapter_config.json. Raises ValueError if there is none."""
    from peft import PeftConfig

    assert location is not None, "a config or a location is given"
    try:
        path = location.find(CONFIG)
    except FileNotFoundError:
        raise ValueError(
            f"adapter model file not found in {location.source}. Make sure you are passing the correct path to the "
            "adapter model."
        ) from None
    return PeftConfig.from_pretrained(str(path.parent))


def read_tensors(location: Location | None) -> dict[str, Tensor]:
    """Reads the weights of an adapter. Raises FileNotFoundError if there are none."""
    assert location is not None, "weights or a location are given"
    tensors = open_weights(location.find_weights(*WEIGHTS))
    return {name: tensors.read(name) for name in tensors.infos}


def apply(
    model: Model, config: AdapterConfig, tensors: Mapping[str, Tensor], name: str, *, inject: bool
) -> AdapterReport:
    """Adds an adapter with these weights to a model.

    Without `inject`, replaces the weights of an existing adapter.
    """
    from peft import inject_adapter_in_model
    from peft.utils import set_peft_model_state_dict

    if inject:
        inject_adapter_in_model(config, model, name)
    device = next(model.parameters()).device
    state = {key.removeprefix(PREFIX): tensor.to(device) for key, tensor in tensors.items()}
    result = set_peft_model_state_dict(model, state, name)
    marker = f".{name}"
    missing = {key for key in result.missing_keys if "lora_" in key and marker in key}
    return AdapterReport(missing, set(result.unexpected_keys))


def save(
    model: Model, folder: Path, state_dict: Mapping[str, Tensor] | None, max_shard_size: int | str, *, as_peft: bool
) -> list[str]:
    """Writes the active adapter of a model, and returns the names of the files.

    `as_peft` adds the prefix that peft uses to the names of the tensors. Raises ValueError if several adapters are
    active.
    """
    from huggingface_hub import save_torch_state_dict

    active = model.active_adapters()
    if len(active) > 1:
        raise ValueError(
            "Multiple active adapters detected, saving multiple active adapters is not supported yet. You can save "
            "adapters separately one by one by iteratively calling `model.set_adapter(adapter_name)` then "
            "`model.save_pretrained(...)`"
        )
    tensors = model.get_adapter_state_dict(state_dict=state_dict)
    prefix = PREFIX if as_peft else ""
    with atomic.system_errors(folder):
        model.peft_config[active[0]].save_pretrained(str(folder))
        save_torch_state_dict(
            {prefix + name: tensor for name, tensor in tensors.items()},
            folder,
            filename_pattern="adapter_model{suffix}.safetensors",
            max_shard_size=max_shard_size,
            metadata={"format": "pt"},
        )
    return [CONFIG, "adapter_model*"]
