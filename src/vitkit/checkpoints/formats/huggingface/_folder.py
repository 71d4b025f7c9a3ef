"""Reads and writes checkpoint folders of transformers' DeiT, BEiT, DINOv2 and DINOv3."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError
from vitkit.checkpoints.containers.safetensors import write_weights
from vitkit.checkpoints.formats import RawCheckpoint
from vitkit.checkpoints.formats.huggingface._config import read_config, to_config
from vitkit.checkpoints.json_files import Json, write_json
from vitkit.data.processor import Processor

FileConfig = tuple[dict[str, Any], tuple[str, ...] | None]


def read_file_config(raw: RawCheckpoint, defaults: Json, notes: list[str]) -> FileConfig:
    """Returns config fields and labels from config.json. Missing keys get the defaults of transformers."""
    if raw.config is None:
        notes.append("no config.json: using transformers' default norm_eps and activation")
        return {}, None
    return read_config({**defaults, **{key: value for key, value in raw.config.items() if value is not None}})


def read_processor(raw: RawCheckpoint, config: Any, crop_fraction: float, notes: list[str]) -> Processor:
    """Reads preprocessor_config.json. Without that file, returns the preprocessing of the original evaluation."""
    if raw.preprocessor is None:
        notes.append("no preprocessor_config.json: using the preprocessing of the original evaluation")
        return preprocessing.meta(config, crop_fraction)
    try:
        return Processor.from_huggingface(raw.preprocessor)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"preprocessor_config.json: {error}") from None


def option(raw: RawCheckpoint, name: str, default: Any) -> Any:
    """Returns a boolean or numeric option of config.json. Raises CheckpointError if its type is wrong."""
    value = (raw.config or {}).get(name, default)
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        raise CheckpointError(f"config.json: {name} is {str(value)[:40]!r}, expected {type(default).__name__}")
    return value


def write_folder(
    checkpoint: Checkpoint, folder: Path, tensors: Mapping[str, Tensor], config_json: dict[str, Any], prefix: str
) -> None:
    """Writes config.json, model.safetensors and preprocessor_config.json.

    `config_json` is merged into the config that all families share. If the model has classes, every name except the
    classifiers' gets `prefix`, as in the library's `...ForImageClassification` classes.
    """
    classes = checkpoint.model.config.num_classes
    names = {name: name if not classes or "classifier" in name.split(".")[0] else prefix + name for name in tensors}
    write_weights({names[name]: tensor for name, tensor in tensors.items()}, folder)
    write_json(dict(sorted((to_config(checkpoint) | config_json).items())), folder / "config.json")
    write_json(checkpoint.processor.to_huggingface(), folder / "preprocessor_config.json")
