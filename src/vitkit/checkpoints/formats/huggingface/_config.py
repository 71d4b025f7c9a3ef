"""Reads and writes transformers' config.json for ViTs. Unknown keys are ignored."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from vitkit import config as configs
from vitkit.checkpoints import meaning
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError
from vitkit.checkpoints.formats._unsupported import TRAINING, extra_fields
from vitkit.checkpoints.json_files import Json
from vitkit.layers.activations import CORE, names_in

# These model types have the same encoder with the same tensor names.
MODEL_TYPES = ("vit", "vit_mae", "vit_msn")
ACTIVATIONS = names_in("transformers")
# transformers has its own keys for dropout rates, which users may edit.
EXTRA = tuple(name for name in TRAINING if "dropout" not in name)
MAX_SIDE = 100_000


@dataclass(frozen=True, kw_only=True)
class ViTFields:
    """The fields of transformers' ViTConfig that affect the outputs of a model. Other keys are ignored."""

    num_attention_heads: int | None = None
    num_hidden_layers: int | None = None
    hidden_size: int | None = None
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    layer_norm_eps: float = 1e-12
    image_size: int | tuple[int, int] | None = None
    patch_size: int | tuple[int, int] | None = None
    num_channels: int | None = None
    architectures: tuple[str, ...] = ()
    id2label: dict[str, str] | None = None
    vitkit: dict[str, Any] | None = None


NAMES = {
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "depth",
    "hidden_size": "width",
    "intermediate_size": "mlp_width",
    "image_size": "image_size",
    "patch_size": "patch_size",
    "num_channels": "channels",
    "layer_norm_eps": "norm_eps",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}


def read_config(data: Json) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """Returns config fields and labels from config.json. Raises CheckpointError for values of the wrong type."""
    known = {field.name for field in fields(ViTFields)}
    try:
        parsed = configs.from_dict(
            ViTFields, {key: data[key] for key in data if key in known and data[key] is not None}
        )
    except ValueError as error:
        raise CheckpointError(f"config.json: {error}") from None
    if parsed.hidden_act not in ACTIVATIONS:
        raise CheckpointError(
            "config.json: unknown hidden_act "
            f"{parsed.hidden_act[:40]!r}{configs.nearest(parsed.hidden_act, ACTIVATIONS)}"
        )
    values = {ours: getattr(parsed, theirs) for theirs, ours in NAMES.items() if getattr(parsed, theirs) is not None}
    for name in ("image_size", "patch_size"):
        if isinstance(size := values.get(name), int):
            values[name] = (size, size)
        if name in values and not all(0 < side <= MAX_SIDE for side in values[name]):
            raise CheckpointError(f"config.json: {name} is {values[name]}; each side must be 1 to {MAX_SIDE} pixels")
    if parsed.id2label is not None and any("ForImageClassification" in name for name in parsed.architectures):
        # With num_classes set, a missing head is an error.
        values["num_classes"] = len(parsed.id2label)
    values["activation"] = ACTIVATIONS[parsed.hidden_act]
    values |= {key: value for key, value in (parsed.vitkit or {}).items() if key in EXTRA}
    return values, read_labels(parsed.id2label)


def read_labels(names: Mapping[str, str] | None) -> tuple[str, ...] | None:
    """Returns the labels in `id2label` in order, or None. Raises CheckpointError if a class has none."""
    if names is None:
        return None
    try:
        return tuple(names[str(index)] for index in range(len(names)))
    except KeyError as error:
        raise CheckpointError(
            f"config.json: id2label has {len(names)} labels, but none for the class {error.args[0]}"
        ) from None


def to_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns the config.json for transformers. Fields that transformers lacks are stored under the key `vitkit`."""
    config = checkpoint.model.config
    data: dict[str, Any] = {
        "architectures": ["ViTForImageClassification" if config.num_classes else "ViTModel"],
        "attention_probs_dropout_prob": config.attention_dropout,
        "dtype": str(next(checkpoint.model.parameters()).dtype).removeprefix("torch."),
        "encoder_stride": config.patch_size[0],
        "hidden_act": CORE[config.activation].transformers[0],
        "hidden_dropout_prob": config.dropout,
        "hidden_size": config.width,
        "image_size": _side(config.image_size),
        "initializer_range": 0.02,
        "intermediate_size": config.mlp_width,
        "layer_norm_eps": config.norm_eps,
        "model_type": "vit",
        "num_attention_heads": config.num_heads,
        "num_channels": config.channels,
        "num_hidden_layers": config.depth,
        "patch_size": _side(config.patch_size),
        "qkv_bias": getattr(config, "qkv_bias", True),
        "vitkit": extra_fields(config) | meaning.to_json(config.task, problem_type=False),
    }
    if config.task.problem_type != "single_label_classification":
        data["problem_type"] = config.task.problem_type
    if config.num_classes:
        data["id2label"] = {str(index): label for index, label in enumerate(checkpoint.labels)}
        data["label2id"] = {label: index for index, label in enumerate(checkpoint.labels)}
    return dict(sorted(data.items()))


def _side(size: tuple[int, int]) -> int | list[int]:
    return size[0] if size[0] == size[1] else list(size)
