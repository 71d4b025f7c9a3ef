"""vitkit's own checkpoint folders, which store every config field of every model family."""

from pathlib import Path

from vitkit import config as configs
from vitkit import models
from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.bounds import check_config
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError
from vitkit.checkpoints.containers.safetensors import write_weights
from vitkit.checkpoints.formats import Description, Format, Json, RawCheckpoint
from vitkit.checkpoints.infer.vit import check_fixed_positions, parse_overrides
from vitkit.checkpoints.json_files import write_json
from vitkit.checkpoints.table import Rule, Table
from vitkit.data.processor import Processor

VERSION = 1
TABLE = Table((Rule("{name}", ("{name}",)),))


def describe(raw: RawCheckpoint) -> Description:
    """Reads the config, processor and labels. Raises CheckpointError if sizes do not fit the tensors."""
    file_config = raw.config or {}
    if file_config["vitkit"] != VERSION:
        raise CheckpointError(
            f"config.json has version {file_config['vitkit']!r} of vitkit's layout, expected {VERSION}"
        )
    try:
        config = models.from_dict(file_config["model"])
        config = configs.override(config, parse_overrides(type(config), raw.overrides))
    except ValueError as error:
        raise CheckpointError(f"config.json: {error}") from None
    check_config(config, raw.tensors)
    check_fixed_positions(config)
    labels = file_config.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise CheckpointError("config.json: labels is not a list of strings")
    data = raw.preprocessor
    processor = (
        preprocessing.google(config)
        if data is None
        else preprocessing.stated(lambda: Processor.from_huggingface(data), "preprocessor_config.json")
    )
    return Description(config=config, processor=processor, labels=tuple(labels))


def accepts(config: Json | None) -> bool:
    """Returns whether config.json was written by vitkit."""
    return config is not None and "vitkit" in config and isinstance(config.get("model"), dict)


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes config.json, model.safetensors and preprocessor_config.json."""
    write_weights(checkpoint.model.state_dict(), folder)
    config_json = {
        "vitkit": VERSION,
        "model": models.to_dict(checkpoint.model.config),
        "labels": list(checkpoint.labels),
    }
    write_json(config_json, folder / "config.json")
    write_json(checkpoint.processor.to_huggingface(), folder / "preprocessor_config.json")


FORMAT = Format(
    name="vitkit",
    targets=("vitkit",),
    family=None,
    table=TABLE,
    accepts=accepts,
    describe=describe,
    unsupported_reason=lambda config: None,
    write=write,
)
