"""Our own folders: the canonical names, and a config.json that says everything of any model of any family."""

from pathlib import Path
from typing import Any

from vitkit import config as configs
from vitkit import models
from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError
from vitkit.checkpoints.containers.safetensors import write_weights
from vitkit.checkpoints.formats import Description, Format, Found
from vitkit.checkpoints.infer.vit import check_fixed_positions, parse_overrides
from vitkit.checkpoints.json_files import write_json
from vitkit.checkpoints.table import Rule, Table
from vitkit.data.processor import Processor

VERSION = 1
TABLE = Table((Rule("{name}", ("{name}",)),))


def describe(found: Found) -> Description:
    """All of it is stated; sizes that no tensor could have are refused before a model is built."""
    stated = found.config or {}
    if stated["vitkit"] != VERSION:
        raise CheckpointError(
            f"config.json is of version {stated['vitkit']!r} of vitkit's layout; this vitkit reads {VERSION}"
        )
    try:
        config = models.from_dict(stated["model"])
        config = configs.override(config, parse_overrides(type(config), found.overrides))
    except ValueError as error:
        raise CheckpointError(f"config.json: {error}") from None
    largest = max((side for info in found.tensors.infos.values() for side in info.shape), default=0)
    for name, limit in (("depth", len(found.tensors.infos)), ("width", largest), ("mlp_width", largest)):
        if getattr(config, name, 0) > limit:
            raise CheckpointError(f"config.json says {name} {getattr(config, name)}, more than the tensors can hold")
    check_fixed_positions(config)
    labels = stated.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise CheckpointError("config.json: labels is not a list of texts")
    words = found.preprocessor
    processor = (
        preprocessing.google(config)
        if words is None
        else preprocessing.stated(lambda: Processor.from_huggingface(words), "preprocessor_config.json")
    )
    return Description(config=config, processor=processor, labels=tuple(labels))


def accepts(config: Any) -> bool:
    """Whether config.json is ours."""
    return config is not None and "vitkit" in config and isinstance(config.get("model"), dict)


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """config.json, model.safetensors, preprocessor_config.json."""
    write_weights(checkpoint.model.state_dict(), folder)
    stated = {"vitkit": VERSION, "model": models.to_dict(checkpoint.model.config), "labels": list(checkpoint.labels)}
    write_json(stated, folder / "config.json")
    write_json(checkpoint.processor.to_huggingface(), folder / "preprocessor_config.json")


FORMAT = Format(
    name="vitkit",
    targets=("vitkit",),
    family=None,
    table=TABLE,
    accepts=accepts,
    describe=describe,
    obstacle=lambda config: None,
    write=write,
)
