"""Reads and writes checkpoint folders of timm's DeiT, BEiT, DINOv3 and hybrid ViTs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vitkit import config as configs
from vitkit.checkpoints import meaning, preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError
from vitkit.checkpoints.containers.safetensors import write_weights
from vitkit.checkpoints.formats import RawCheckpoint
from vitkit.checkpoints.formats._unsupported import extra_fields
from vitkit.checkpoints.formats.timm._config import pretrained_cfg, read_config
from vitkit.checkpoints.json_files import Json, write_json
from vitkit.data.processor import Processor


def read_file_config(raw: RawCheckpoint, names: tuple[str, ...] = ()) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """Returns config fields and labels from config.json. The fields in `names` are read from the key `vitkit`."""
    if raw.config is None:
        return {}, None
    fields, labels = read_config(raw.config)
    vitkit_fields = raw.config.get("vitkit")
    return fields | (
        {name: vitkit_fields[name] for name in names if name in vitkit_fields}
        if isinstance(vitkit_fields, Mapping)
        else {}
    ), labels


def read_processor(raw: RawCheckpoint, config: Any) -> Processor | None:
    """Returns the processor from config.json or preprocessor_config.json, or None if neither file has one.

    Raises CheckpointError for invalid values.
    """
    data = raw.config or {}
    vitkit_fields, cfg = data.get("vitkit"), data.get("pretrained_cfg")
    try:
        if isinstance(vitkit_fields, Mapping) and "processor" in vitkit_fields:
            return configs.from_dict(Processor, vitkit_fields["processor"], where="vitkit.processor")
        if isinstance(cfg, Mapping):
            return Processor.from_timm({**cfg, "input_size": (config.channels, *config.image_size)})
        return None if raw.preprocessor is None else Processor.from_huggingface(raw.preprocessor)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"the preprocessing settings are invalid: {error}") from None


def processor(raw: RawCheckpoint, config: Any, crop_fraction: float, notes: list[str]) -> Processor:
    """Returns the stored processor. If there is none, returns the processor of the original evaluation."""
    stored = read_processor(raw, config)
    if stored is not None:
        return stored
    notes.append("no preprocessing in the file: using the preprocessing of the original evaluation")
    return preprocessing.meta(config, crop_fraction)


def write_folder(
    checkpoint: Checkpoint,
    folder: Path,
    tensors: Mapping[str, Tensor],
    architecture: str,
    arguments: Json,
    extra: tuple[str, ...] = (),
) -> None:
    """Writes model.safetensors and config.json for `timm.create_model("local-dir:...", pretrained=True)`.

    `arguments` are added to `model_args`. `extra` are vitkit config fields without a timm argument, stored under
    `vitkit` in config.json.
    """
    config = checkpoint.model.config
    ratio = config.mlp_width / config.width
    exact = int(config.width * ratio) == config.mlp_width
    cfg = pretrained_cfg(checkpoint.processor, config)
    vitkit_fields = (
        extra_fields(config) | meaning.to_json(config.task) | {name: getattr(config, name) for name in extra}
    )
    if Processor.from_timm(cfg) != checkpoint.processor:
        vitkit_fields["processor"] = configs.to_dict(checkpoint.processor)
    pool = {"token": "token", "gap": "avg"}[getattr(config, "pool", "token")]
    model_args = {
        "img_size": list(config.image_size),
        "patch_size": list(config.patch_size),
        "in_chans": config.channels,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.num_heads,
        # timm rounds width * ratio down.
        "mlp_ratio": ratio if exact else (config.mlp_width + 0.5) / config.width,
        "global_pool": pool,
        **arguments,
    }
    write_weights(tensors, folder)
    write_json(
        {
            "architecture": architecture,
            "num_classes": config.num_classes,
            "num_features": config.width,
            "global_pool": pool,
            "model_args": model_args,
            "label_names": list(checkpoint.labels),
            "pretrained_cfg": cfg,
            "vitkit": vitkit_fields,
        },
        folder / "config.json",
    )
