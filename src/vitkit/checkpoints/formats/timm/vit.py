"""timm folders, and official files of DeiT, DeiT III, DINO, DINOv2 and MAE."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitkit import config as configs
from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.containers.safetensors import write_weights
from vitkit.checkpoints.formats import Description, Format, RawCheckpoint
from vitkit.checkpoints.formats._unsupported import implied_mismatch, unsupported_field
from vitkit.checkpoints.formats.timm._config import POOLS, read_config, to_config
from vitkit.checkpoints.infer.vit import infer_vit
from vitkit.checkpoints.json_files import Json, write_json
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
            *(
                "norm_pre.{leaf}",
                "norm.{leaf}",
                "fc_norm.{leaf}",
                "pre_logits.fc.{leaf}",
                "head.{leaf}",
                "attn_pool.latent",
            ),
            *(f"attn_pool.{part}.{{leaf}}" for part in ("q", "kv", "proj", "norm", "mlp.fc1", "mlp.fc2")),
        )
    )
)
DEFAULTS = {
    "activation": "gelu",
    "norm_eps": 1e-6,
    "position_order": ("class+patches", "all", "patches"),
    "position_resize": "bicubic_antialias",
}
FREE = ("qkv_bias", "qk_norm", "layer_scale")
# Official files are identified by file name or wrapper: pattern, project, position_resize, crop fraction.
# The first match counts.
PROJECTS: tuple[tuple[str, str, str, float], ...] = (
    (r"dinov2|dino_v2", "DINOv2", "bicubic_offset", 1.0),
    (r"dino|teacher\.|backbone\.", "DINO", "bicubic_offset", 7 / 8),
    (r"base_encoder\.|moco|vit-[sb]-300ep", "MoCo v3", "bicubic", 7 / 8),
    (r"deit[-_]?3", "DeiT III", "bicubic", 1.0),
    (r"mae", "MAE", "bicubic", 7 / 8),
    (r"deit|(^|\.)model\.$", "DeiT", "bicubic", 7 / 8),
    (r"", "DeiT", "bicubic_antialias", 7 / 8),
)


def describe(raw: RawCheckpoint) -> Description:
    """Reads the config, processor and labels. Without config.json, infers the project from file and tensor names."""
    notes: list[str] = []
    file_config: Json = {"position": "learned"}
    labels: tuple[str, ...] | None = None
    shapes = TABLE.shapes(raw.tensors)
    defaults: dict[str, Any] = dict(DEFAULTS)
    project = _project(raw)
    if project[1] == "DINO" and "head.weight" in shapes and "dino" not in raw.file_name.lower():
        project = PROJECTS[-1]  # `backbone.` is also the prefix of classifiers; DINO's files have no head
    if raw.config is not None:
        file_config, labels = read_config(raw.config)
    else:
        defaults["position_resize"] = project[2]
        if project[1] == "MoCo v3":
            # MoCo v3's ViT-S has 12 heads of width 32.
            file_config = {**file_config, "num_heads": 12}
        notes.append(f"no config.json: positions are resized as {project[1]} does")
    if "num_registers" not in file_config and "reg_token" in shapes:
        defaults["position_order"] = ("patches", "class+patches", "all")
    if "fc_norm.weight" in shapes:
        # With mean pooling, timm and MAE's fine-tuned files apply the norm after the pool.
        defaults["pool"] = "gap"
    config = infer_vit(
        shapes,
        defaults=defaults,
        file_config=file_config,
        overrides=raw.overrides,
        image_size=raw.image_size,
        notes=notes,
    )
    return Description(
        config=config, processor=_processor(raw, config, project, notes), labels=labels, notes=tuple(notes)
    )


def _project(raw: RawCheckpoint) -> tuple[str, str, str, float]:
    for project in PROJECTS:
        if re.search(project[0], raw.file_name.lower()) or (project[0] and re.search(project[0], raw.wrapper)):
            return project
    raise AssertionError("no project was found, although the last pattern in PROJECTS matches any file name")


def _processor(raw: RawCheckpoint, config: Config, project: tuple[str, str, str, float], notes: list[str]) -> Processor:
    config_json, preprocessor = raw.config or {}, raw.preprocessor
    vitkit_fields, cfg = config_json.get("vitkit"), config_json.get("pretrained_cfg")
    if isinstance(vitkit_fields, Mapping) and "processor" in vitkit_fields:
        return preprocessing.stated(
            lambda: configs.from_dict(Processor, vitkit_fields["processor"], where="vitkit.processor"), "config.json"
        )
    if isinstance(cfg, Mapping):
        sized = dict(cfg) | {"input_size": (config.channels, *config.image_size)}
        return preprocessing.stated(lambda: Processor.from_timm(sized), "config.json: pretrained_cfg")
    if preprocessor is not None:
        return preprocessing.stated(lambda: Processor.from_huggingface(preprocessor), "preprocessor_config.json")
    notes.append(f"no preprocessing in the file: using {project[1]}'s")
    # DINOv2 is evaluated on a 224 crop of 256 pixels; its position table is from a final stage at 518 pixels.
    smaller = project[1] == "DINOv2" and raw.image_size not in (None, config.image_size)
    processor = preprocessing.meta(config, 7 / 8 if smaller else project[3])
    return dataclasses.replace(processor, interpolation="bilinear") if project[1] == "MoCo v3" else processor


def unsupported_reason(config: Config) -> str | None:
    """Returns an error message if timm's `VisionTransformer` cannot represent the config, otherwise None."""
    title = "timm's VisionTransformer"
    if config.position_tokens == "class+patches" and config.num_registers and config.position == "learned":
        return f"{title} needs position embeddings for the registers if the class token has one; use to='vitkit'"
    fixed = {
        "pool": config.pool if config.pool in POOLS.values() else "token",
        "norm": config.norm if config.pool != "map" else "tokens",
        # timm's patch embedding has no bias if there is a norm before the blocks.
        "patch_bias": not config.pre_norm,
        "position": "none" if config.position == "none" else "learned",
    }
    free = ("class_token", "num_registers", "pre_norm", "position_tokens", "activation", "norm_eps", *FREE)
    return unsupported_field(config, title, fixed=fixed, free=free) or implied_mismatch(
        config, "timm's config.json", {"norm_eps": 1e-5 if config.norm_eps == 1e-5 else 1e-6}
    )


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes model.safetensors and config.json for `timm.create_model("local-dir:...", pretrained=True)`."""
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
        (r"head\.(mlp|last_layer).*", "DINO's projection head", r"head\.last_layer"),
        (r"head\.\d+\..*", "MoCo v3's projector", r"(base|momentum)_encoder\."),
    ),
    accepts=lambda config: config is None or ("model_type" not in config and not isinstance(config.get("model"), dict)),
    describe=describe,
    unsupported_reason=unsupported_reason,
    write=write,
)
