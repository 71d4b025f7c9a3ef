"""Implements `from_pretrained` and `save_pretrained`, with the parameter names of transformers 4 and 5."""

import copy
import inspect
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitkit import atomic
from vitkit.checkpoints.containers import open_weights
from vitkit.checkpoints.tensors import Info, Tensors
from vitkit.regular import read_bytes
from vitkit.text import printable
from vitkit.transformers import adapter_files, hub
from vitkit.transformers.config_values import parse_dtype
from vitkit.transformers.configuration import PretrainedConfig
from vitkit.transformers.hub import Argument
from vitkit.transformers.initialization import allocate, create, initialize_missing, mark_initialized
from vitkit.transformers.matching import LoadingReport, check_layers, check_missing, loadable, matched
from vitkit.transformers.names import Names, rename, write_v5

logger = logging.getLogger("vitkit.transformers")

Device = str | int | torch.device | None
DeviceMap = Device | Mapping[str, Device]


# A `PreTrainedModel`, which imports this module.
Model = Any


class Keys(set[Any]):
    """A set of keys that also equals a list, because transformers 5 reports sets, but transformers 4 lists."""

    def __eq__(self, other: object) -> bool:
        return super().__eq__(set(other) if isinstance(other, list) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]


def load(
    model_class: type[Model],
    source: str | os.PathLike[str] | None,
    *model_args: Argument,
    config: PretrainedConfig | str | os.PathLike[str] | None = None,
    state_dict: Mapping[str, Tensor] | None = None,
    ignore_mismatched_sizes: bool = False,
    output_loading_info: bool = False,
    dtype: torch.dtype | str | None = "auto",
    torch_dtype: torch.dtype | str | None = None,
    device_map: DeviceMap = None,
    variant: str | None = None,
    use_safetensors: bool | None = None,
    weights_only: bool = True,
    key_mapping: Mapping[str, str] | None = None,
    adapter_name: str = "default",
    adapter_kwargs: Mapping[str, Argument] | None = None,
    **kwargs: Argument,
) -> Any:
    """Loads a model in evaluation mode. Returns (model, report) if `output_loading_info` is True.

    source          folder or Hub id, or None with config and state_dict; `kwargs` may contain options of `hub.locate`
    config          replaces the saved config; without it, `kwargs` override attributes of the saved one (num_labels=10)
    state_dict      tensors to use instead of a weights file
    dtype           "auto" uses the dtype of the config, or else of the weights; `torch_dtype` is the old name
    device_map      a single device: "cpu", "cuda:0", 0, "auto" (a GPU if available) or {"": device}
    variant         loads the weights from model.VARIANT.safetensors
    key_mapping     regular expressions and their replacements, applied to every name in the file
    adapter_name    name of the adapter, if the folder contains one; `adapter_kwargs` are options of `load_adapter`

    Missing parameters are randomly initialized, with a warning. Raises FileNotFoundError. Raises ValueError for an
    unreadable config or file. Raises RuntimeError for mismatched shapes. Raises TypeError for unknown arguments.
    """
    if not weights_only:
        raise ValueError("weights_only=False is not supported: loading could run code from the file")
    if torch.get_default_device().type == "meta":
        raise RuntimeError(
            "You are using `from_pretrained` with a meta device context manager or `torch.set_default_device('meta')`, "
            "where no weights can be loaded; call it outside of the context manager"
        )
    if source is None and (config is None or state_dict is None):
        raise ValueError("from_pretrained(None) needs config= and state_dict=; pass both, or the path of a folder")
    location, kwargs = hub.locate(source or "", kwargs)
    adapter = None if source is None else adapter_files.find(location)
    location = location if adapter is None else adapter_files.base_of(adapter)
    config, kwargs, other = _config(model_class, location, config, kwargs)
    _check_kwargs(model_class, config, kwargs)
    if state_dict is not None:
        tensors = _from_state_dict(state_dict)
    else:
        tensors = _open_weights(location, variant, use_safetensors)
    tensors = tensors.renamed(lambda name: _map_name(name, key_mapping or {}))
    config.dtype = _dtype(torch_dtype or dtype, config, tensors)
    check_layers(config, tensors)
    model = create(model_class, (config, *model_args), kwargs)
    model, report = _load_tensors(model, tensors, ignore_mismatched_sizes, _device(device_map))
    if other is not None:
        _check_shared(model, report, location.source, other)
    model.name_or_path = config.name_or_path = location.source
    model.eval()
    if adapter is not None:
        options = {**adapter.options, "subfolder": adapter.subfolder, **(adapter_kwargs or {})}
        report = model.load_adapter(adapter.source, adapter_name, **options)
    keys = {name: Keys(value) if isinstance(value, set) else value for name, value in vars(report).items()}
    return (model, keys) if output_loading_info else model


def _config(
    model_class: type[Model],
    location: hub.Location,
    config: PretrainedConfig | str | os.PathLike[str] | None,
    kwargs: dict[str, Argument],
) -> tuple[PretrainedConfig, dict[str, Argument], str | None]:
    """Returns the config, the `kwargs` that are arguments of the model's constructor, and a different `model_type`."""
    implementation = kwargs.pop("attn_implementation", None)
    options = {name: kwargs.pop(name) for name in ("torchscript", "gradient_checkpointing") if name in kwargs}
    own, other = model_class.config_class, None
    if config is not None and not isinstance(config, str | os.PathLike):
        result, rest = copy.deepcopy(model_class._as_config(config)), kwargs
    else:
        where = location if config is None else replace(location, source=os.fspath(config))
        try:
            data = where.read_json("config.json")
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error}: pass config=, or save the config with model.config.save_pretrained"
            ) from None
        other = own.check_model_type(data)
        result, rest = own.from_dict(data, return_unused_kwargs=True, **kwargs)
    if implementation is not None:
        result._attn_implementation = implementation
    result.update({name: value for name, value in options.items() if value})
    if options.get("torchscript"):
        result.return_dict = False
    return result, rest, other


def _check_shared(model: Model, report: LoadingReport, source: str, model_type: str) -> None:
    """Raises ValueError if a checkpoint of another `model_type` has no parameter of the model without a head."""
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    if all(name in report.missing_keys for name in loadable(model) if name.startswith(prefix)):
        raise ValueError(
            f"{printable(source)} has model_type {printable(model_type)[:40]!r} and no parameter of "
            f"{type(model).__name__}, which expects '{model.config_class.model_type}': use vitkit.AutoModel or "
            "vitkit.load"
        )


def _check_kwargs(model_class: type[Model], config: PretrainedConfig, kwargs: Mapping[str, Argument]) -> None:
    """Raises TypeError for keyword arguments that neither the config nor the constructor of the model has."""
    parameters = inspect.signature(model_class.__init__).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return
    accepted = [name for name in parameters if name not in ("self", "config")]
    if unknown := [printable(name)[:40] for name in kwargs if name not in accepted]:
        own = inspect.signature(load).parameters.values()
        known = {each.name for each in own if each.kind is each.KEYWORD_ONLY} | {*accepted, *hub.DOWNLOAD_OPTIONS}
        known |= {"attn_implementation", "subfolder", *config.to_dict()} - {"model_type"}
        raise TypeError(
            f"{model_class.__name__}.__init__() got an unexpected keyword argument '{unknown[0]}'; from_pretrained "
            f"accepts {', '.join(sorted(known))}"
        )


def _from_state_dict(state_dict: Mapping[str, Tensor]) -> Tensors:
    infos = {name: Info(tuple(tensor.shape), tensor.dtype) for name, tensor in state_dict.items()}
    return Tensors(infos, lambda name: state_dict[name].detach())


def _open_weights(location: hub.Location, variant: str | None, use_safetensors: bool | None) -> Tensors:
    infix = f".{variant}" if variant else ""
    safe = [
        f"model{infix}.safetensors",
        f"model.safetensors.index{infix}.json",
        f"model{infix}.safetensors.index.json",
    ]
    pickled = [f"pytorch_model{infix}.bin", f"pytorch_model.bin.index{infix}.json"]
    names = safe if use_safetensors else pickled if use_safetensors is False else safe + pickled
    return open_weights(location.find_weights(*dict.fromkeys(names)))


def _map_name(name: str, key_mapping: Mapping[str, str]) -> str:
    for pattern, replacement in key_mapping.items():
        name = re.sub(pattern, replacement, name)
    return name


def _dtype(dtype: torch.dtype | str | None, config: PretrainedConfig, tensors: Tensors) -> torch.dtype:
    if dtype not in (None, "auto"):
        return parse_dtype(dtype)
    if isinstance(config.dtype, torch.dtype):
        return config.dtype
    floating = [info.dtype for info in tensors.infos.values() if info.dtype.is_floating_point]
    return floating[0] if floating else torch.float32


def _device(device_map: DeviceMap) -> torch.device:
    if isinstance(device_map, Mapping):
        if set(device_map) != {""}:
            raise ValueError(
                f"device_map has keys {', '.join(device_map)}; only a single device is supported: {{'': device}}"
            )
        device_map = device_map[""]
    if device_map in ("auto", "balanced", "sequential"):
        device_map = "cuda:0" if torch.cuda.is_available() else "cpu"
    return torch.device("cpu" if device_map is None else device_map)


def _load_tensors(
    model: Model, tensors: Tensors, ignore_mismatched_sizes: bool, device: torch.device
) -> tuple[Model, LoadingReport]:
    """Copies tensors to the model's parameters and initializes the parameters that have no tensor.

    Names, shapes and the size of the missing parameters are checked before memory is allocated on the device.
    """
    tensors, report = matched(model, tensors)
    if report.mismatched_keys and not ignore_mismatched_sizes:
        wrong = "; ".join(
            f"{name}: {given} in the file, {own} in the model" for name, given, own in sorted(report.mismatched_keys)
        )
        raise RuntimeError(
            f"size mismatch for {wrong}; to initialize these randomly, pass ignore_mismatched_sizes=True"
        )
    uninitialized = report.missing_keys | {name for name, *_ in report.mismatched_keys}
    check_missing(model, uninitialized, tensors)
    model = allocate(model, device)
    with torch.no_grad():
        initialize_missing(model, uninitialized)
        for name, parameter in loadable(model).items():
            if name not in uninitialized:
                parameter.copy_(tensors.read(name))
    mark_initialized(model)
    if uninitialized:
        logger.warning(f"newly initialized, train before use: {', '.join(sorted(uninitialized))}")
    if report.unexpected_keys:
        logger.warning(f"not used by {type(model).__name__}: {', '.join(sorted(report.unexpected_keys))}")
    return model, report


def save(
    model: Model,
    save_directory: str | os.PathLike[str],
    *,
    is_main_process: bool = True,
    state_dict: Mapping[str, Tensor] | None = None,
    push_to_hub: bool = False,
    max_shard_size: int | str = "5GB",
    safe_serialization: bool = True,
    variant: str | None = None,
    save_original_format: bool = True,
    save_peft_format: bool = True,
    **hub_options: Argument,
) -> None:
    """Writes config.json and the weights to a folder. The folder is created if needed.

    A model with adapters writes its active adapter instead, as PEFT does.

    state_dict            tensors to save instead of the model's own, with v4 or v5 names
    max_shard_size        bytes, or a string such as "200MB"; larger weights are saved as shards and an index
    variant               names the file model.VARIANT.safetensors
    save_original_format  use the v4 names, which every version of transformers reads; False uses the v5 names
    save_peft_format      give the weights of an adapter the names that PEFT gives them
    hub_options           options of `hub.push_folder`

    `safe_serialization=False` also writes safetensors, as transformers 5 does, because a pickle can run code when it is
    loaded. It logs a warning.
    """
    if not safe_serialization:
        logger.warning("safe_serialization=False has no effect: the weights are saved as safetensors, not as a pickle")
    if not is_main_process:
        return
    folder = hub.make_folder(save_directory)
    model.config.architectures = [type(model).__name__]
    model.config.dtype = model.dtype
    files = ["config.json", "model*"]
    if model._hf_peft_config_loaded:
        files = adapter_files.save(model, folder, state_dict, max_shard_size, as_peft=save_peft_format)
    else:
        model.config.save_pretrained(folder)
        tensors = _state_dict(model, state_dict, "v4" if save_original_format else "v5")
        _write_weights(tensors, folder, max_shard_size, variant)
    if push_to_hub:
        hub.push_folder(folder, files, tags=model.model_tags, **hub_options)


def _state_dict(model: Model, state_dict: Mapping[str, Tensor] | None, name_format: str) -> dict[str, Tensor]:
    """Returns the state dict, or a copy of the given one, with the parameter names of a name format."""
    before = model.name_format
    model.name_format = "v4"
    state = dict(model.state_dict() if state_dict is None else state_dict)
    inner = [
        (f"{name}." if name else "", module)
        for name, module in model.named_modules()
        if isinstance(getattr(module, "names", None), Names)
    ]
    for prefix, module in reversed(inner):
        rename(state, prefix, module.names.to_v4)
        if name_format == "v5":
            write_v5(module, state, prefix)
    model.name_format = before
    if name_format == "v4":
        return state
    # `split_for_v5` returns views of parameters. They are cloned, because safetensors does not save shared memory.
    partial = {name for name, each in state.items() if each.untyped_storage().nbytes() > each.nbytes}
    return {name: tensor.clone() if name in partial else tensor for name, tensor in state.items()}


def _write_weights(state: Mapping[str, Tensor], folder: Path, max_shard_size: int | str, variant: str | None) -> None:
    from huggingface_hub import save_torch_state_dict

    name = f"model.{variant}" if variant else "model"
    with atomic.system_errors(folder):
        save_torch_state_dict(
            dict(state),
            folder,
            filename_pattern=name + "{suffix}.safetensors",
            max_shard_size=max_shard_size,
            metadata={"format": "pt"},
        )
    mode = (folder / "config.json").stat().st_mode & 0o777
    for path in folder.glob(f"{name}*.safetensors"):
        path.chmod(mode)  # safetensors writes files for their owner only
    if not variant:
        # Weights of an earlier save, which the Flax classes would otherwise load first.
        (folder / "flax_model.msgpack").unlink(missing_ok=True)
    index = folder / f"{name}.safetensors.index.json"
    if variant and index.exists():
        atomic.write_bytes(folder / f"model.safetensors.index.{variant}.json", read_bytes(index))
        index.unlink()
