"""timm's names, which are ours: its hub folders, and the official files of DeiT, DeiT III, DINO, DINOv2 and MAE."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitkit import config as configs
from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.containers.safetensors import write_weights
from vitkit.checkpoints.formats import Description, Format, Found
from vitkit.checkpoints.formats._unsupported import lacking, meaning
from vitkit.checkpoints.formats.timm._config import POOLS, read_config, to_config
from vitkit.checkpoints.infer.vit import infer_vit
from vitkit.checkpoints.json_files import write_json
from vitkit.checkpoints.table import Rule, Table
from vitkit.data.processor import Processor
from vitkit.models.vit import Config

TABLE = Table(
    tuple(
        Rule(name, (name,))
        for name in (
            *("patch_embed.proj.{leaf}", "cls_token", "reg_token", "pos_embed"),
            *("blocks.{i}.norm1.{leaf}", "blocks.{i}.norm2.{leaf}", "blocks.{i}.ls1.gamma", "blocks.{i}.ls2.gamma"),
            *("blocks.{i}.attn.qkv.{leaf}", "blocks.{i}.attn.proj.{leaf}"),
            *("blocks.{i}.attn.q_norm.{leaf}", "blocks.{i}.attn.k_norm.{leaf}"),
            *("blocks.{i}.mlp.fc1.{leaf}", "blocks.{i}.mlp.fc2.{leaf}"),
            *("norm.{leaf}", "fc_norm.{leaf}", "pre_logits.fc.{leaf}", "head.{leaf}", "attn_pool.latent"),
            *(f"attn_pool.{part}.{{leaf}}" for part in ("q", "kv", "proj", "norm", "mlp.fc1", "mlp.fc2")),
        )
    )
)
DIALECT = {
    "activation": "gelu",
    "norm_eps": 1e-6,
    "position_order": ("class+patches", "all", "patches"),
    "position_resize": "bicubic_antialias",
}
FREE = ("qkv_bias", "qk_norm", "layer_scale")
# The official files tell of their lineage by their names and wrappers alone. First match wins.
LINEAGES: tuple[tuple[str, str, str, float], ...] = (
    (r"dinov2|dino_v2", "DINOv2", "bicubic_offset", 1.0),
    (r"dino|teacher\.|backbone\.", "DINO", "bicubic_offset", 7 / 8),
    (r"base_encoder\.|moco|vit-[sb]-300ep", "MoCo v3", "bicubic", 7 / 8),
    (r"deit[-_]?3", "DeiT III", "bicubic", 1.0),
    (r"mae", "MAE", "bicubic", 7 / 8),
    (r"deit|(^|\.)model\.$", "DeiT", "bicubic", 7 / 8),
    (r"", "DeiT", "bicubic_antialias", 7 / 8),
)


def describe(found: Found) -> Description:
    """By config.json where there is one, else by the lineage that the file's name and wrapper tell of."""
    notes: list[str] = []
    stated: Mapping[str, Any] = {"position": "learned"}
    labels: tuple[str, ...] | None = None
    shapes = TABLE.shapes(found.tensors)
    dialect: dict[str, Any] = dict(DIALECT)
    lineage = _lineage(found)
    if found.config is not None:
        stated, labels = read_config(found.config)
    else:
        dialect["position_resize"] = lineage[2]
        if lineage[1] == "MoCo v3":
            # Its small ViT has heads of half the usual width.
            stated = {**stated, "num_heads": 12}
        notes.append(f"no config.json: positions are resized as {lineage[1]} does")
    if "num_registers" not in stated and "reg_token" in shapes:
        dialect["position_order"] = ("patches", "class+patches", "all")
    if "fc_norm.weight" in shapes:
        # timm moves the norm behind the pool where it pools by mean, and MAE's fine-tuned files do the same.
        dialect["pool"] = "gap"
    config = infer_vit(
        shapes, dialect=dialect, stated=stated, overrides=found.overrides, image_size=found.image_size, notes=notes
    )
    return Description(
        config=config, processor=_processor(found, config, lineage, notes), labels=labels, notes=tuple(notes)
    )


def _lineage(found: Found) -> tuple[str, str, str, float]:
    for lineage in LINEAGES:
        if re.search(lineage[0], found.file_name.lower()) or (lineage[0] and re.search(lineage[0], found.wrapper)):
            return lineage
    raise AssertionError("the last lineage matches anything")


def _processor(found: Found, config: Config, lineage: tuple[str, str, str, float], notes: list[str]) -> Processor:
    config_json, preprocessor = found.config or {}, found.preprocessor
    own, cfg = config_json.get("vitkit"), config_json.get("pretrained_cfg")
    if isinstance(own, Mapping) and "processor" in own:
        return preprocessing.stated(
            lambda: configs.from_dict(Processor, own["processor"], where="vitkit.processor"), "config.json"
        )
    if isinstance(cfg, Mapping):
        sized = dict(cfg) | {"input_size": (config.channels, *config.image_size)}
        return preprocessing.stated(lambda: Processor.from_timm(sized), "config.json: pretrained_cfg")
    if preprocessor is not None:
        return preprocessing.stated(lambda: Processor.from_huggingface(preprocessor), "preprocessor_config.json")
    notes.append(f"no preprocessing in the file: {lineage[1]}'s is taken")
    # DINOv2's authors judge at 224 of 256 pixels; the table of positions is of a last stage at 518.
    smaller = lineage[1] == "DINOv2" and found.image_size not in (None, config.image_size)
    processor = preprocessing.meta(config, 7 / 8 if smaller else lineage[3])
    return dataclasses.replace(processor, interpolation="bilinear") if lineage[1] == "MoCo v3" else processor


def obstacle(config: Any) -> str | None:
    """What timm's `VisionTransformer` has no argument for."""
    what = "timm's VisionTransformer"
    if config.position_tokens == "class+patches" and config.num_registers and config.position == "learned":
        return f"{what} has no positions for the class token but not the registers; to='vitkit' can say it"
    fixed = {
        "pool": config.pool if config.pool in POOLS.values() else "token",
        "norm": config.norm if config.pool != "map" else "tokens",
        "position": "none" if config.position == "none" else "learned",
    }
    free = ("class_token", "num_registers", "position_tokens", "activation", "norm_eps", *FREE)
    return lacking(config, what, fixed=fixed, free=free) or meaning(config, "timm's config.json", {"norm_eps": 1e-6})


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """model.safetensors and a config.json that `timm.create_model("local-dir:...", pretrained=True)` opens."""
    write_weights(TABLE.saved(checkpoint.model.state_dict(), checkpoint.model.config.num_heads), folder)
    write_json(to_config(checkpoint), folder / "config.json")


FORMAT = Format(
    name="timm",
    targets=("timm",),
    family="vit",
    table=TABLE,
    anchors=(r"patch_embed\.proj\.weight",),
    aliases=(
        (r"^(blocks\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma"),  # DeiT III
        (r"^register_tokens$", "reg_token"),  # DINOv2
        (r"^(blocks\.\d+\.mlp)\.w12\.", r"\1.fc1."),  # DINOv2 giant
        (r"^(blocks\.\d+\.mlp)\.w3\.", r"\1.fc2."),
    ),
    ignored=(
        (r"mask_token", "the mask token of pre-training"),
        (r"decoder.*", "MAE's decoder"),
        (r"head\.(mlp|last_layer).*", "DINO's projection head"),
        (r"head\.\d+\..*", "MoCo v3's projector"),
    ),
    accepts=lambda config: config is None or ("model_type" not in config and not isinstance(config.get("model"), dict)),
    describe=describe,
    obstacle=obstacle,
    write=write,
)
