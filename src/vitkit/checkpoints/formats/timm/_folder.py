"""What the dialects of timm's other ViTs share: arguments that all its classes have, and how a folder is written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vitkit import config as configs
from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError
from vitkit.checkpoints.containers.safetensors import write_weights
from vitkit.checkpoints.formats import Found
from vitkit.checkpoints.formats._unsupported import beside
from vitkit.checkpoints.formats.timm._config import pretrained_cfg, read_config
from vitkit.checkpoints.json_files import write_json
from vitkit.data.processor import Processor


def stated_config(found: Found, names: tuple[str, ...] = ()) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """Fields that timm's config.json states, our own beside it by `names` too, and names of classes."""
    if found.config is None:
        return {}, None
    fields, labels = read_config(found.config)
    own = found.config.get("vitkit")
    return fields | ({name: own[name] for name in names if name in own} if isinstance(own, Mapping) else {}), labels


def stated_processor(found: Found, config: Any) -> Processor | None:
    """What config.json or preprocessor_config.json say, None where there is neither; CheckpointError for nonsense."""
    stated = found.config or {}
    own, cfg = stated.get("vitkit"), stated.get("pretrained_cfg")
    try:
        if isinstance(own, Mapping) and "processor" in own:
            return configs.from_dict(Processor, own["processor"], where="vitkit.processor")
        if isinstance(cfg, Mapping):
            return Processor.from_timm({**cfg, "input_size": (config.channels, *config.image_size)})
        return None if found.preprocessor is None else Processor.from_huggingface(found.preprocessor)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"the preprocessing: {error}") from None


def processor(found: Found, config: Any, crop_fraction: float, notes: list[str]) -> Processor:
    """What the folder states, else the preprocessing of the original evaluation with ImageNet statistics."""
    stated = stated_processor(found, config)
    if stated is not None:
        return stated
    notes.append("no preprocessing in the file: the original evaluation's is taken")
    return preprocessing.meta(config, crop_fraction)


def write_folder(
    checkpoint: Checkpoint,
    folder: Path,
    tensors: Mapping[str, Tensor],
    architecture: str,
    arguments: Mapping[str, Any],
    own: tuple[str, ...] = (),
) -> None:
    """model.safetensors and a config.json that `timm.create_model("local-dir:...", pretrained=True)` opens.

    `own` are fields of our config that timm has no word for, which are written beside it.
    """
    config = checkpoint.model.config
    ratio = config.mlp_width / config.width
    exact = int(config.width * ratio) == config.mlp_width
    cfg = pretrained_cfg(checkpoint.processor, config)
    beside_it = beside(config) | {name: getattr(config, name) for name in own}
    if Processor.from_timm(cfg) != checkpoint.processor:
        beside_it["processor"] = configs.to_dict(checkpoint.processor)
    pool = {"token": "token", "gap": "avg"}[getattr(config, "pool", "token")]
    stated = {
        "img_size": list(config.image_size),
        "patch_size": list(config.patch_size),
        "in_chans": config.channels,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.num_heads,
        # timm rounds width times ratio down.
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
            "model_args": stated,
            "label_names": list(checkpoint.labels),
            "pretrained_cfg": cfg,
            "vitkit": beside_it,
        },
        folder / "config.json",
    )
