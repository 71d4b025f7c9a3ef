"""`from_pretrained` and `save_pretrained`: weights under the names of transformers 4 and 5, with a loading report."""

import copy
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitkit import atomic
from vitkit.checkpoints.containers import open_weights
from vitkit.checkpoints.tensors import Info, Tensors
from vitkit.transformers import hub
from vitkit.transformers.configuration import ViTConfig
from vitkit.transformers.names import rename, to_v4, to_v5

logger = logging.getLogger("vitkit.transformers")


@dataclass
class Report:
    """What did not fit: `output_loading_info=True` gives it as a dict, in the form of version 5."""

    missing_keys: set[str] = field(default_factory=set)
    unexpected_keys: set[str] = field(default_factory=set)
    mismatched_keys: set[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=set)
    error_msgs: list[str] = field(default_factory=list)


def load(
    kind: type[Any],
    source: str | os.PathLike[str],
    *model_args: Any,
    config: ViTConfig | str | os.PathLike[str] | None = None,
    state_dict: Mapping[str, Tensor] | None = None,
    ignore_mismatched_sizes: bool = False,
    output_loading_info: bool = False,
    dtype: torch.dtype | str | None = "auto",
    torch_dtype: torch.dtype | str | None = None,
    device_map: Any = None,
    variant: str | None = None,
    use_safetensors: bool | None = None,
    weights_only: bool = True,
    key_mapping: Mapping[str, str] | None = None,
    **kwargs: Any,
) -> Any:
    """A model of `kind` in evaluation mode, or (model, report) with `output_loading_info`.

    source          a folder or a hub id; kwargs of `hub.place` say where in it
    config          instead of the one beside the weights; else kwargs that it has are set on it (num_labels=10)
    state_dict      tensors to use instead of a weights file
    dtype           "auto" is that of the config, else of the weights; `torch_dtype` is its older name
    device_map      one device: "cpu", "cuda:0", 0, "auto" (a GPU if there is one) or {"": device}
    variant         weights named model.VARIANT.safetensors
    key_mapping     regular expressions and what to put in place of them, tried on every name in the file

    What is missing is drawn afresh and said in a warning. Raises FileNotFoundError, ValueError for a config or file
    that cannot be read, RuntimeError for shapes that do not fit, TypeError for arguments nobody takes.
    """
    if not weights_only:
        raise ValueError("weights_only=False would run code of the file; it is not supported")
    place, kwargs = hub.place(source, kwargs)
    config, kwargs = _config(place, config, kwargs)
    tensors = _held(state_dict) if state_dict is not None else _open(place, variant, use_safetensors)
    tensors = tensors.renamed(lambda name: _mapped(name, key_mapping or {}))
    config.dtype = _dtype(torch_dtype or dtype, config, tensors)
    with torch.device("meta"):
        model = kind(config, *model_args, **kwargs)
    model.to(config.dtype).to_empty(device=_device(device_map))
    report = _fill(model, tensors, ignore_mismatched_sizes)
    model.name_or_path = config.name_or_path = os.fspath(source)
    model.eval()
    return (model, vars(report)) if output_loading_info else model


def _config(place: hub.Place, config: Any, kwargs: dict[str, Any]) -> tuple[ViTConfig, dict[str, Any]]:
    """The config, and the arguments that are the model's."""
    implementation = kwargs.pop("attn_implementation", None)
    if isinstance(config, ViTConfig):
        result, rest = copy.deepcopy(config), kwargs
    else:
        where = place if config is None else hub.Place(os.fspath(config), place.subfolder, place.options)
        try:
            data = where.read_json("config.json")
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error}: pass config=, or write it with model.config.save_pretrained (transformers.Trainer writes "
                "only the weights of models that are not its own)"
            ) from None
        if data.get("model_type", "vit") != "vit":
            raise ValueError(f"{where.source} is a model of type '{data['model_type']}', not 'vit': try vitkit.load")
        result, rest = ViTConfig.from_dict(data, return_unused_kwargs=True, **kwargs)
    if implementation is not None:
        result._attn_implementation = implementation
    return result, rest


def _held(state_dict: Mapping[str, Tensor]) -> Tensors:
    infos = {name: Info(tuple(tensor.shape), tensor.dtype) for name, tensor in state_dict.items()}
    return Tensors(infos, lambda name: state_dict[name].detach())


def _open(place: hub.Place, variant: str | None, use_safetensors: bool | None) -> Tensors:
    infix = f".{variant}" if variant else ""
    safe = [
        f"model{infix}.safetensors",
        f"model.safetensors.index{infix}.json",
        f"model{infix}.safetensors.index.json",
    ]
    pickled = [f"pytorch_model{infix}.bin", f"pytorch_model.bin.index{infix}.json"]
    names = safe if use_safetensors else pickled if use_safetensors is False else safe + pickled
    path = place.find(*dict.fromkeys(names))
    if path.suffix == ".json" and not Path(place.source).is_dir():
        for shard in sorted(set(hub.read_json(path)["weight_map"].values())):
            place.find(shard)
    return open_weights(path)


def _mapped(name: str, key_mapping: Mapping[str, str]) -> str:
    for pattern, replacement in key_mapping.items():
        name = re.sub(pattern, replacement, name)
    return name


def _dtype(wanted: torch.dtype | str | None, config: ViTConfig, tensors: Tensors) -> torch.dtype:
    if wanted not in (None, "auto"):
        return named_dtype(wanted)
    stated = config.dtype
    kinds = [info.dtype for info in tensors.infos.values() if info.dtype.is_floating_point]
    return stated if isinstance(stated, torch.dtype) else kinds[0] if kinds else torch.float32


def named_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """The type of that name; ValueError for one that there is not."""
    named = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype.removeprefix("torch."), None)
    if not isinstance(named, torch.dtype):
        raise ValueError(f"unknown dtype '{dtype}'; there is auto, float32, bfloat16, float16, float64")
    return named


def _device(device_map: Any) -> torch.device:
    if isinstance(device_map, Mapping):
        if set(device_map) != {""}:
            raise ValueError(
                f"device_map places parts ({', '.join(device_map)}); a ViT goes to one device here: {{'': device}}"
            )
        device_map = device_map[""]
    if device_map in ("auto", "balanced", "sequential"):
        device_map = "cuda:0" if torch.cuda.is_available() else "cpu"
    return torch.device("cpu" if device_map is None else device_map)


def expected_name(name: str, prefix: str, expected: Iterable[str]) -> str:
    """The name in a model, which has its encoder under `prefix`, of a tensor of either family, with or without one."""
    bare = to_v5(name.removeprefix("vit."))
    return prefix + bare if prefix + bare in expected or name.startswith("vit.") else bare


@torch.no_grad()
def _fill(model: Any, tensors: Tensors, ignore_mismatched_sizes: bool) -> Report:
    """Puts the tensors in place, and fresh weights where there are none."""
    parameters = dict(model.named_parameters())
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    tensors = tensors.renamed(lambda name: expected_name(name, prefix, parameters))
    report = Report(set(parameters) - set(tensors.infos), set(tensors.infos) - set(parameters))
    for name in set(parameters) & set(tensors.infos):
        shapes = tensors.infos[name].shape, tuple(parameters[name].shape)
        if shapes[0] != shapes[1]:
            report.mismatched_keys.add((name, *shapes))
    if report.mismatched_keys and not ignore_mismatched_sizes:
        wrong = "; ".join(
            f"{name} is {held}, the model has {own}" for name, held, own in sorted(report.mismatched_keys)
        )
        raise RuntimeError(f"size mismatch for {wrong}. With ignore_mismatched_sizes=True these are drawn afresh")
    fresh = report.missing_keys | {name for name, *_ in report.mismatched_keys}
    model.init_weights({_owner(model, name) for name in fresh})
    for name, parameter in parameters.items():
        if name not in fresh:
            parameter.copy_(tensors.read(name))
    if fresh:
        logger.warning(f"drawn afresh, so train before use: {', '.join(sorted(fresh))}")
    if report.unexpected_keys:
        logger.warning(f"not used by {type(model).__name__}: {', '.join(sorted(report.unexpected_keys))}")
    return report


def _owner(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def save(
    model: Any,
    save_directory: str | os.PathLike[str],
    *,
    is_main_process: bool = True,
    state_dict: Mapping[str, Tensor] | None = None,
    push_to_hub: bool = False,
    max_shard_size: int | str = "5GB",
    safe_serialization: bool = True,
    variant: str | None = None,
    save_original_format: bool = True,
    **hub_options: Any,
) -> None:
    """Writes a folder, which is made; `push_to_hub` uploads it, with options of `hub.push_folder`.

    state_dict            what to write instead of the model's own tensors, in either family of names
    max_shard_size        in bytes or as "200MB"; larger weights become several files and an index
    variant               as in model.VARIANT.safetensors
    save_original_format  names before transformers 5.9, which every version reads; False writes the newer ones

    Raises ValueError for `safe_serialization=False`: a pickle can run code when it is read.
    """
    if not safe_serialization:
        raise ValueError(
            "safe_serialization=False would write a pickle, which can run code when read; it is not supported"
        )
    if not is_main_process:
        return
    folder = hub.made_folder(save_directory)
    model.config.architectures = [type(model).__name__]
    model.config.dtype = model.dtype
    model.config.save_pretrained(folder)
    written = _renamed(model, model.state_dict() if state_dict is None else state_dict, save_original_format)
    _write(written, folder, max_shard_size, variant)
    if push_to_hub:
        hub.push_folder(folder, ["config.json", "model*"], **hub_options)


def _renamed(model: Any, state_dict: Mapping[str, Tensor], older: bool) -> dict[str, Tensor]:
    state = dict(state_dict)
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    rename(state, prefix, to_v4 if older else to_v5)
    return state


def _write(state: Mapping[str, Tensor], folder: Path, max_shard_size: int | str, variant: str | None) -> None:
    from huggingface_hub import save_torch_state_dict

    name = f"model.{variant}" if variant else "model"
    save_torch_state_dict(
        dict(state),
        folder,
        filename_pattern=name + "{suffix}.safetensors",
        max_shard_size=max_shard_size,
        metadata={"format": "pt"},
    )
    index = folder / f"{name}.safetensors.index.json"
    if variant and index.exists():
        atomic.write_bytes(folder / f"model.safetensors.index.{variant}.json", index.read_bytes())
        index.unlink()
