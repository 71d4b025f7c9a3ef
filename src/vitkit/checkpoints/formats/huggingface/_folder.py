"""What the dialects of transformers' other ViTs share: names, preprocessing, and how a folder is written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError
from vitkit.checkpoints.containers.safetensors import write_weights
from vitkit.checkpoints.formats import Found
from vitkit.checkpoints.formats.huggingface._config import read_config, to_config
from vitkit.checkpoints.json_files import write_json
from vitkit.data.processor import Processor

Stated = tuple[dict[str, Any], tuple[str, ...] | None]


def stated_config(found: Found, defaults: Mapping[str, Any], notes: list[str]) -> Stated:
    """Fields of our config that config.json states, with the library's defaults for the rest, and names of classes."""
    if found.config is None:
        notes.append("no config.json: norm_eps and activation are transformers' defaults")
        return {}, None
    return read_config({**defaults, **{key: value for key, value in found.config.items() if value is not None}})


def stated_processor(found: Found, config: Any, crop_fraction: float, notes: list[str]) -> Processor:
    """By preprocessor_config.json, else as the weights of the lineage were evaluated."""
    if found.preprocessor is None:
        notes.append("no preprocessor_config.json: the original evaluation's is taken")
        return preprocessing.meta(config, crop_fraction)
    try:
        return Processor.from_huggingface(found.preprocessor)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"preprocessor_config.json: {error}") from None


def option(found: Found, name: str, default: Any) -> Any:
    """A switch or a number of config.json, of the type of its default; CheckpointError for another type."""
    value = (found.config or {}).get(name, default)
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        raise CheckpointError(f"config.json: {name} is {str(value)[:40]!r}; it takes {type(default).__name__}")
    return value


def write_folder(
    checkpoint: Checkpoint, folder: Path, tensors: Mapping[str, Tensor], stated: dict[str, Any], prefix: str
) -> None:
    """config.json, model.safetensors and preprocessor_config.json.

    Where there are classes, every name but a classifier's stands behind `prefix`, as the library's classes have it.
    """
    classes = checkpoint.model.config.num_classes
    names = {name: name if not classes or "classifier" in name.split(".")[0] else prefix + name for name in tensors}
    write_weights({names[name]: tensor for name, tensor in tensors.items()}, folder)
    write_json(dict(sorted((to_config(checkpoint) | stated).items())), folder / "config.json")
    write_json(checkpoint.processor.to_huggingface(), folder / "preprocessor_config.json")
