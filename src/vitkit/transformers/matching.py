"""Matches the tensors of a file with the parameters of a model, before memory is allocated for the model."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vitkit.checkpoints.tensors import Tensors
from vitkit.transformers.configuration import LAYERS, PretrainedConfig

# A `PreTrainedModel`.
Model = Any
# Parameters without a tensor in the file may have MAX_MISSING values in total (1 GiB in float32), or MAX_RATIO times
# the number of values in the file.
MAX_MISSING = 2**28
MAX_RATIO = 16
# If a config has more layers than this, the file must have at least one tensor per layer.
MAX_LAYERS = 1_000


@dataclass
class LoadingReport:
    """The missing, unexpected and mismatched keys of a loaded file. Returned if `output_loading_info=True`."""

    missing_keys: set[str] = field(default_factory=set)
    unexpected_keys: set[str] = field(default_factory=set)
    mismatched_keys: set[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=set)
    error_msgs: list[str] = field(default_factory=list)


def expected_name(model: Model, name: str, expected: Iterable[str], prefixed: bool) -> str:
    """Converts a parameter name of any version of transformers, with or without a prefix, to the model's name.

    `prefixed` says whether names in the file have the prefix of the base model. In such a file, a name without the
    prefix belongs to the head if the head has this name.
    """
    base = f"{model.base_model_prefix}."
    prefix = "" if model.base_model is model else base
    bare = model.own_name(name.removeprefix(base))
    if name.startswith(base):
        return prefix + bare
    return bare if (prefixed and bare in expected) or prefix + bare not in expected else prefix + bare


def matched(model: Model, tensors: Tensors) -> tuple[Tensors, LoadingReport]:
    """Returns the tensors renamed to the names in the model, and a report on names and shapes."""
    parameters = loadable(model)
    base = f"{model.base_model_prefix}."
    prefixed = [name for name in tensors.infos if name.startswith(base)]
    targets = {name: expected_name(model, name, parameters, bool(prefixed)) for name in tensors.infos}
    # Head and base model can have equal names, such as `layernorm` and `beit.layernorm` of BeitForMaskedImageModeling.
    taken = {targets[name] for name in prefixed}
    of_head = {name for name in targets if not name.startswith(base) and targets[name] in taken}
    tensors = model.arrange(tensors.without(of_head).renamed(targets.__getitem__))
    report = LoadingReport(set(parameters) - set(tensors.infos), (set(tensors.infos) - set(parameters)) | of_head)
    for name in set(parameters) & set(tensors.infos):
        shapes = tensors.infos[name].shape, tuple(parameters[name].shape)
        if shapes[0] != shapes[1]:
            report.mismatched_keys.add((name, *shapes))
    return tensors, report


def check_missing(model: Model, missing: set[str], tensors: Tensors) -> None:
    """Raises ValueError if the parameters without a tensor are much larger than the file."""
    parameters = loadable(model)
    found = sum(math.prod(info.shape) for info in tensors.infos.values())
    check_size({name: tuple(parameters[name].shape) for name in missing}, found, type(model).__name__)


def check_size(missing: Mapping[str, tuple[int, ...]], found: int, class_name: str) -> None:
    """Raises ValueError if missing parameters, given by name and shape, are much larger than the file.

    `found` is the number of values in the file. The check prevents large allocations for the sizes in an untrusted
    config.json.
    """
    needed = sum(math.prod(shape) for shape in missing.values())
    if needed > max(MAX_MISSING, MAX_RATIO * found):
        largest = max(missing, key=lambda name: math.prod(missing[name]))
        raise ValueError(
            f"the config describes a model with {needed:,} parameters that the file does not have, such as {largest} "
            f"of shape {missing[largest]}; the file has {found:,} values; check config.json, or create a model with "
            f"random weights with {class_name}(config)"
        )


def check_layers(config: PretrainedConfig, tensors: Tensors) -> None:
    """Raises ValueError if a config has many more layers than the file has tensors, before a model is created."""
    for name in LAYERS:
        value: Any = getattr(config, name, 0)
        count = sum(value) if isinstance(value, list | tuple) else value
        if count > max(MAX_LAYERS, len(tensors.infos)):
            raise ValueError(
                f"{name} is {value}, but the file has {len(tensors.infos)} tensors, less than one per layer; check "
                "config.json"
            )


def loadable(model: Model) -> dict[str, Tensor]:
    """Returns the parameters and the persistent buffers, such as the statistics of batch norms, by name."""
    found: dict[str, Tensor] = dict(model.named_parameters())
    for prefix, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                found[f"{prefix}.{name}" if prefix else name] = buffer
    return found
