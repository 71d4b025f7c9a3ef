"""Reads and writes timm's config.json: architecture, model arguments, labels and preprocessing."""

import re
from collections.abc import Mapping
from typing import Any

from vitkit import config as configs
from vitkit.checkpoints import meaning
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError
from vitkit.checkpoints.formats._unsupported import TRAINING, extra_fields
from vitkit.checkpoints.formats.timm._architectures import architecture, unsupported
from vitkit.checkpoints.formats.timm._arguments import check_arguments
from vitkit.checkpoints.json_files import Json
from vitkit.data.processor import Processor
from vitkit.layers.activations import names_in

POOLS = {"token": "token", "avg": "gap", "map": "map", "": "none"}
ACTIVATIONS = names_in("timm")
# Any plain ViT of timm works: `model_args` sets all sizes.
ARCHITECTURE = "vit_base_patch16_224"
# An architecture whose norms have an epsilon of 1e-5.
LARGE_EPS_ARCHITECTURE = "vit_base_patch16_clip_224"
EXTRA = (*TRAINING, "layer_scale", "position_tokens")
VITS = re.compile(r"test_vit\d*(\.|$)|(vit|deit3?|beit3?|beitv2|eva|flexivit|aimv2)_")
BITS = re.compile(r"resnetv2_")
# Others have another stem, grouped convolutions or attention (resnet50d, resnext50_32x4d, seresnet50).
RESNETS = re.compile(r"(resnet(18|26|34|50|101|152|200)|wide_resnet(50|101)_2)(\.|$)")
TITLES = {VITS: "ViT, DeiT or BEiT", BITS: "BiT ResNet", RESNETS: "ResNet"}


def read_config(config_json: Json, known: re.Pattern[str] = VITS) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """Returns vitkit config fields and class labels from timm's config.json.

    Raises CheckpointError for invalid values, and for an architecture name that does not match `known`.
    """
    arguments = config_json.get("model_args") or {}
    cfg = config_json.get("pretrained_cfg") or {}
    name = config_json.get("architecture") or ""
    if not isinstance(arguments, Mapping) or not isinstance(cfg, Mapping) or not isinstance(name, str):
        raise CheckpointError(
            "config.json: architecture must be a string, and model_args and pretrained_cfg must be JSON objects"
        )
    check_architecture(name, known)
    check_arguments(name, arguments)
    if (layer := unsupported().get(name.partition(".")[0])) is not None:
        raise CheckpointError(f"{name.partition('.')[0]} has {layer}, which vitkit does not support; load it with timm")
    fields: dict[str, Any] = {}
    pool = arguments.get("global_pool", config_json.get("global_pool"))
    if pool is not None:
        fields["pool"] = _option(pool, POOLS, "global_pool")
    act = arguments.get("act_layer") or known_arguments(name).get("act_layer")
    if act is not None:
        fields["activation"] = _option(act, ACTIVATIONS, "act_layer")
    if (eps := known_arguments(name).get("norm_eps")) is not None:
        fields["norm_eps"] = eps
    fields |= _norms({**known_arguments(name), **arguments})
    for field, default in zip(("depth", "num_heads"), architecture_size(name), strict=True):
        if isinstance(value := arguments.get(field, default), int):
            fields[field] = value
    if isinstance(classes := config_json.get("num_classes"), int):
        fields["num_classes"] = classes
    fields["position"] = "none" if arguments.get("pos_embed", "learn") in ("none", "") else "learned"
    size = arguments.get("img_size")
    if size is None and cfg.get("input_size") is not None:
        size = cfg["input_size"][1:] if isinstance(cfg["input_size"], list) else cfg["input_size"]
    if size is not None:
        fields["image_size"] = _pair(size)
    vitkit_fields = config_json.get("vitkit")
    if isinstance(vitkit_fields, Mapping):
        fields |= {key: vitkit_fields[key] for key in EXTRA if key in vitkit_fields}
    return fields, _labels(config_json, cfg)


def _norms(arguments: Json) -> dict[str, Any]:
    """Returns the config fields for timm arguments that add or remove a norm."""
    fields = {"pre_norm": bool(arguments["pre_norm"])} if arguments.get("pre_norm") is not None else {}
    return fields | ({"norm": "none"} if arguments.get("final_norm") is False else {})


def _option(value: Any, options: Mapping[str, str], name: str) -> str:
    if not isinstance(value, str) or value not in options:
        raise CheckpointError(
            f"config.json: {name} is {str(value)[:40]!r}, expected one of {', '.join(map(repr, options))}"
        )
    return options[value]


def _pair(value: Any) -> tuple[int, int]:
    sides = (value, value) if type(value) is int else value
    if (
        not isinstance(sides, list | tuple)
        or len(sides) != 2
        or not all(type(side) is int and side > 0 for side in sides)
    ):
        raise CheckpointError(
            f"config.json: the image size is {str(value)[:60]}; expected a positive integer or two of them"
        )
    return sides[0], sides[1]


def _labels(config_json: Json, cfg: Json) -> tuple[str, ...] | None:
    names = config_json.get("label_names", cfg.get("label_names"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    data = config_json.get("label_descriptions", cfg.get("label_descriptions"))
    descriptions = data if isinstance(data, Mapping) else {}
    return tuple(str(descriptions.get(name, name)) for name in names)


def to_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns the config.json for timm. Config fields that timm lacks are stored under the key `vitkit`."""
    config = checkpoint.model.config
    ratio = config.mlp_width / config.width
    arguments = {
        "img_size": list(config.image_size),
        "patch_size": list(config.patch_size),
        "in_chans": config.channels,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.num_heads,
        # timm rounds width * ratio down: if the division is not exact, 0.5 more gives the same width.
        "mlp_ratio": ratio
        if int(config.width * ratio) == config.mlp_width
        else (config.mlp_width + 0.5) / config.width,
        "qkv_bias": config.qkv_bias,
        "qk_norm": config.qk_norm,
        "init_values": config.layer_scale,
        "class_token": config.class_token,
        "reg_tokens": config.num_registers,
        "no_embed_class": config.position_tokens == "patches",
        "pos_embed": "learn" if config.position == "learned" else "none",
        "global_pool": {ours: theirs for theirs, ours in POOLS.items()}[config.pool],
        "pre_norm": config.pre_norm,
        "final_norm": config.norm != "none",
        "fc_norm": config.norm == "pooled",
        "act_layer": config.activation,
    }
    cfg = pretrained_cfg(checkpoint.processor, config)
    vitkit_fields = extra_fields(config) | meaning.to_json(config.task)
    vitkit_fields |= {"layer_scale": config.layer_scale, "position_tokens": config.position_tokens}
    if Processor.from_timm(cfg) != checkpoint.processor:
        vitkit_fields["processor"] = configs.to_dict(checkpoint.processor)
    return {
        "architecture": LARGE_EPS_ARCHITECTURE if config.norm_eps == 1e-5 else ARCHITECTURE,
        "num_classes": config.num_classes,
        "num_features": config.width,
        "global_pool": arguments["global_pool"],
        "model_args": arguments,
        "label_names": list(checkpoint.labels),
        "pretrained_cfg": cfg,
        "vitkit": vitkit_fields,
    }


def pretrained_cfg(processor: Processor, config: Any) -> dict[str, Any]:
    """Returns the timm `pretrained_cfg` entries that are closest to the settings of a processor."""
    to = processor.resize_to if processor.resize_to is not None else processor.size
    short = to if isinstance(to, int) else min(to)
    modes = {"shortest": "center", "squash": "squash", "longest": "border", "none": "center"}
    # timm rounds size / fraction down: use the middle of the fractions that give `short`.
    fraction = min(processor.size) / (short + 0.5) if short > min(processor.size) else 1.0
    if int(min(processor.size) / round(fraction, 3)) == short:
        fraction = round(fraction, 3)
    return {
        "num_classes": config.num_classes,
        "input_size": [config.channels, *processor.size],
        "fixed_input_size": True,
        "interpolation": processor.interpolation,
        "crop_pct": fraction,
        "crop_mode": modes[processor.resize],
        "mean": list(processor.mean),
        "std": list(processor.std),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }


def check_architecture(name: str, known: re.Pattern[str]) -> None:
    """Raises CheckpointError for an architecture that is unsupported or does not match the pattern `known`."""
    if not name:
        return
    shown = name[:60] if name.isprintable() else repr(name[:60])
    if "_rpn_" in name:
        raise CheckpointError(
            f"{shown} applies norms after attention and MLP (post-norm), which vitkit does not support"
        )
    if not known.match(name):
        raise CheckpointError(
            f"config.json: architecture is {name[:60]!r}, but the tensors are those of a {TITLES[known]}"
        )


def known_arguments(name: str) -> Json:
    """Returns the model arguments that the entry point of an architecture sets, or {} if the name is unknown."""
    found = architecture(name)
    return {} if found is None else found.arguments


def architecture_size(name: str) -> tuple[int | None, int | None]:
    """Returns the depth and num_heads of an architecture, or None if the name does not determine them."""
    found = architecture(name)
    if found is None or found.module == "resnetv2":
        return None, None
    # timm's defaults are those of ViT-B.
    return found.arguments.get("depth", 12), found.arguments.get("num_heads", 12)
