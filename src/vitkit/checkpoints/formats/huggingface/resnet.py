"""Checkpoint format of Hugging Face transformers' ResNet, such as microsoft/resnet-50.

Parameter names are the same in transformers 4 and 5.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vitkit import config as configs
from vitkit.checkpoints import meaning, preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError
from vitkit.checkpoints.containers.safetensors import write_weights
from vitkit.checkpoints.formats import Description, Format, RawCheckpoint
from vitkit.checkpoints.formats._unsupported import implied_mismatch
from vitkit.checkpoints.formats.huggingface._config import ACTIVATIONS, read_labels
from vitkit.checkpoints.infer.resnet import infer_resnet
from vitkit.checkpoints.json_files import Json, write_json
from vitkit.checkpoints.table import Rule, Table
from vitkit.data.processor import Processor
from vitkit.layers.activations import CORE
from vitkit.models import resnet

# transformers always has ReLU inside blocks, and a quarter of the channels in a bottleneck.
IMPLIED = {"inner_activation": "relu", "reduction": 4}
BLOCK, THEIR_BLOCK = "stages.{i}.blocks.{j}", "encoder.stages.{i}.layers.{j}"
TABLE = Table(
    (
        Rule("stem.conv.weight", ("embedder.embedder.convolution.weight",)),
        Rule("stem.norm.{norm}", ("embedder.embedder.normalization.{norm}",)),
        *(
            rule
            for part in range(3)
            for rule in (
                Rule(f"{BLOCK}.conv{part + 1}.weight", (f"{THEIR_BLOCK}.layer.{part}.convolution.weight",)),
                Rule(f"{BLOCK}.norm{part + 1}.{{norm}}", (f"{THEIR_BLOCK}.layer.{part}.normalization.{{norm}}",)),
            )
        ),
        Rule(f"{BLOCK}.downsample.conv.weight", (f"{THEIR_BLOCK}.shortcut.convolution.weight",)),
        Rule(f"{BLOCK}.downsample.norm.{{norm}}", (f"{THEIR_BLOCK}.shortcut.normalization.{{norm}}",)),
        Rule("head.{leaf}", ("classifier.1.{leaf}",)),
    )
)


@dataclass(frozen=True, kw_only=True)
class ResNetFields:
    """The fields of transformers' ResNetConfig that affect the outputs of a model. Other fields are ignored."""

    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    layer_type: str = "bottleneck"
    hidden_act: str = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False
    architectures: tuple[str, ...] = ()
    id2label: dict[str, str] | None = None
    vitkit: dict[str, Any] | None = None


# transformers' names of config fields, and vitkit's.
NAMES = {
    "num_channels": "channels",
    "embedding_size": "stem_width",
    "hidden_sizes": "widths",
    "depths": "depths",
    "layer_type": "block",
    "hidden_act": "activation",
    "downsample_in_first_stage": "downsample_in_first_stage",
    "downsample_in_bottleneck": "downsample_in_bottleneck",
}


def read_config(data: Json) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """Returns the model config fields and labels in config.json. Raises CheckpointError for invalid values."""
    known = {field.name for field in fields(ResNetFields)}
    try:
        parsed = configs.from_dict(
            ResNetFields, {key: data[key] for key in data if key in known and data[key] is not None}
        )
    except ValueError as error:
        raise CheckpointError(f"config.json: {error}") from None
    if parsed.hidden_act not in ACTIVATIONS:
        near = configs.nearest(parsed.hidden_act, ACTIVATIONS)
        raise CheckpointError(f"config.json: unknown hidden_act {parsed.hidden_act[:40]!r}{near}")
    values = {ours: getattr(parsed, theirs) for theirs, ours in NAMES.items()} | IMPLIED
    values["activation"] = ACTIVATIONS[parsed.hidden_act]
    if parsed.id2label is not None and any("ForImageClassification" in name for name in parsed.architectures):
        values["num_classes"] = len(parsed.id2label)  # a missing head is an error
    if parsed.vitkit is not None and "image_size" in parsed.vitkit:
        values["image_size"] = parsed.vitkit["image_size"]
    return values, read_labels(parsed.id2label)


def to_config(config: resnet.Config) -> dict[str, Any]:
    """Converts a vitkit config to the fields of transformers' ResNetConfig."""
    values = {theirs: getattr(config, ours) for theirs, ours in NAMES.items()}
    values |= {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
    return values | {"hidden_act": CORE[config.activation].transformers[0], "model_type": "resnet"}


def describe(raw: RawCheckpoint) -> Description:
    """Reads the config, processor and labels. Without config.json, uses the defaults of transformers."""
    notes: list[str] = []
    file_config: dict[str, Any] = dict(IMPLIED)
    labels: tuple[str, ...] | None = None
    processor = None
    if raw.preprocessor is not None:
        data = raw.preprocessor
        processor = preprocessing.stated(lambda: Processor.from_huggingface(data), "preprocessor_config.json")
        file_config["image_size"] = processor.size
    if raw.config is None:
        notes.append("no config.json: using transformers' default hidden_act and strides")
    else:
        values, labels = read_config(raw.config)
        file_config |= values
    config = infer_resnet(
        TABLE.shapes(raw.tensors),
        file_config=file_config,
        overrides=raw.overrides,
        image_size=raw.image_size,
        notes=notes,
    )
    if processor is None:
        notes.append("no preprocessor_config.json: using the preprocessing of microsoft/resnet-50")
        processor = preprocessing.resnet(config, interpolation="bicubic", center_crop="huggingface")
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def unsupported_reason(config: resnet.Config) -> str | None:
    """Returns an error message if transformers' ResNet cannot represent the config, or None."""
    if config.block == "basic":
        return implied_mismatch(config, "transformers' ResNet", {"inner_activation": "relu"})
    return implied_mismatch(config, "transformers' ResNet", IMPLIED)


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes config.json, preprocessor_config.json and model.safetensors for transformers' ResNet classes."""
    config = checkpoint.model.config
    tensors = TABLE.saved(checkpoint.model.state_dict(), 1)
    if config.num_classes:
        tensors = {name if name.startswith("classifier.") else f"resnet.{name}": each for name, each in tensors.items()}
    extra = meaning.to_json(config.task, problem_type=False)
    if config.image_size != checkpoint.processor.size:
        extra["image_size"] = list(config.image_size)
    data: dict[str, Any] = {
        **to_config(config),
        "architectures": ["ResNetForImageClassification" if config.num_classes else "ResNetModel"],
        "dtype": str(next(checkpoint.model.parameters()).dtype).removeprefix("torch."),
        **({"vitkit": extra} if extra else {}),
    }
    if config.task.problem_type != "single_label_classification":
        data["problem_type"] = config.task.problem_type
    if config.num_classes:
        data["id2label"] = {str(index): label for index, label in enumerate(checkpoint.labels)}
        data["label2id"] = {label: index for index, label in enumerate(checkpoint.labels)}
    write_weights(tensors, folder)
    write_json(dict(sorted(data.items())), folder / "config.json")
    write_json(checkpoint.processor.to_huggingface(kind="ConvNext"), folder / "preprocessor_config.json")


def accepts(config: Mapping[str, Any] | None) -> bool:
    """Returns whether config.json is missing or describes a ResNet."""
    return config is None or config.get("model_type") == "resnet"


FORMAT = Format(
    name="resnet_huggingface",
    targets=("huggingface",),
    family="resnet",
    table=TABLE,
    anchors=(r"(?:resnet\.)?embedder\.embedder\.convolution\.weight",),
    aliases=((r"^resnet\.", ""),),
    accepts=accepts,
    describe=describe,
    unsupported_reason=unsupported_reason,
    write=write,
)
