"""vitkit's own checkpoint folders, which store every config field of every model family."""

from pathlib import Path

from vitkit import config as configs
from vitkit import discovery, models
from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.bounds import check_config
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError
from vitkit.checkpoints.containers.safetensors import write_weights
from vitkit.checkpoints.formats import Description, Format, Json, RawCheckpoint
from vitkit.checkpoints.infer.vit import check_fixed_positions, parse_overrides
from vitkit.checkpoints.json_files import write_json
from vitkit.checkpoints.table import Rule, Table
from vitkit.config import JsonDict
from vitkit.data.processor import Processor
from vitkit.text import printable

VERSION = 1
TABLE = Table((Rule("{name}", ("{name}",)),))


def describe(raw: RawCheckpoint) -> Description:
    """Reads the config, processor and labels. Raises CheckpointError if sizes do not fit the tensors."""
    file_config = raw.config or {}
    if file_config["vitkit"] != VERSION:
        raise CheckpointError(
            f"config.json has version {file_config['vitkit']!r} of vitkit's layout, expected {VERSION}"
        )
    _check_family(file_config)
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


def _check_family(file_config: Json) -> None:
    """Raises CheckpointError if the model family belongs to a plug-in that is not loaded.

    Loading a checkpoint never loads a plug-in, because a plug-in is code.
    """
    family, plugin = file_config["model"].get("family"), file_config.get("plugin")
    if not isinstance(family, str) or models.is_family(family):
        return
    if not isinstance(plugin, dict) or not isinstance(plugin.get("name"), str):
        return  # the error of `models.from_dict` suggests similar families
    name = printable(plugin["name"])
    if plugin.get("is_file"):
        where = (
            f"the plug-in file {name}; load it first, with --plugin {name} or, in Python, vitkit.plugins.load('{name}')"
        )
    else:
        where = f"the plug-in {name}, which is not installed; install it, or load its file (--plugin FILE)"
    raise CheckpointError(f"config.json: the model family '{printable(family)}' belongs to {where}")


def accepts(config: Json | None) -> bool:
    """Returns whether config.json was written by vitkit."""
    return config is not None and "vitkit" in config and isinstance(config.get("model"), dict)


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes config.json, model.safetensors and preprocessor_config.json."""
    write_weights(checkpoint.model.state_dict(), folder)
    config_json: JsonDict = {
        "vitkit": VERSION,
        "model": models.to_dict(checkpoint.model.config),
        "labels": list(checkpoint.labels),
    }
    plugin = discovery.describe("model", checkpoint.model.family)
    if plugin is not None:  # the folder of the file is private, so it is not stored
        file = plugin["plugin"].endswith(".py")
        name = Path(plugin["plugin"]).name if file else plugin["package"] or plugin["plugin"]
        config_json["plugin"] = {"name": name, "is_file": file}
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
