"""Writes the table of timm's architectures from the installed timm: `python scripts/timm_architectures.py`.

Each entry point is called with a function in place of timm's builder, which records the arguments of the model class.
Architectures with layers that vitkit does not have are listed with the first such layer.
"""

import dataclasses
import functools
import importlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import _registry
from timm.models._pretrained import PretrainedCfg

TARGET = Path(__file__).parents[1] / "src/vitkit/checkpoints/formats/timm/architectures.json"
MODULES = {
    "vision_transformer": lambda name: True,
    "deit": lambda name: True,
    "beit": lambda name: True,
    "vision_transformer_hybrid": lambda name: True,
    "eva": lambda name: "dinov3" in name,
    "resnetv2": lambda name: name.endswith("_bit"),
}
# Arguments of timm's builder, and of layers that vitkit builds by itself.
DROPPED = ("pretrained_filter_fn", "pretrained_strict", "feature_cfg", "embed_layer", "conv_layer", "stem_type")
DEFAULT = dataclasses.asdict(PretrainedCfg())
HYBRIDS = {"_r_s": [], "_r26_s": [2, 2, 2, 2], "_r50_s16": [3, 4, 9], "_r50_s32": [3, 4, 6, 3]}


def recorded(module: str, name: str) -> tuple[str, dict[str, Any]]:
    """Returns the model class and the arguments that an entry point passes to timm's builder."""
    found: list[tuple[str, dict[str, Any]]] = []
    code: Any = importlib.import_module(f"timm.models.{module}")
    code.build_model_with_cfg = lambda cls, variant, pretrained, **rest: found.append((cls.__name__, rest))
    with torch.device("meta"):
        timm.model_entrypoint(name)()
    return found[0]


def plain(value: Any) -> Any:
    """Returns an argument as JSON: classes and functions by name, partial functions with their keywords."""
    if isinstance(value, functools.partial):
        return [plain(value.func), {key: plain(each) for key, each in value.keywords.items()}]
    if isinstance(value, torch.nn.Module):
        return "Module"
    if callable(value):
        return value.__name__
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def missing_layer(module: str, name: str, given: dict[str, Any]) -> str | None:
    """Returns the layer that vitkit does not have, or None if it supports the architecture."""
    norm = given.get("norm_layer")
    reasons = {
        "RMSNorm": "embed_norm_layer" in given or (isinstance(norm, str) and norm.lower() == "rmsnorm"),
        "norms inside attention and MLP": given.get("scale_attn_norm") or given.get("scale_mlp_norm"),
        "norms after attention and MLP": given.get("block_fn") == "ResPostBlock",
        "parallel blocks": given.get("block_fn"),
        "differential attention": given.get("attn_layer"),
        "pooling over special tokens": given.get("pool_include_prefix"),
        "no biases": given.get("proj_bias") is False,
        "another convolutional stem": module == "vision_transformer_hybrid" and not any(k in name for k in HYBRIDS),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def arguments(cls: str, module: str, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of vitkit's model class."""
    result = {key: value for key, value in given.items() if key not in DROPPED}
    if "norm_layer" in result:
        result["norm_eps"] = result.pop("norm_layer")[1]["eps"]
    if "mlp_layer" in result:
        result["mlp_layer"] = "swiglu_packed"
    if isinstance(act := result.get("act_layer"), str):
        result["act_layer"] = act.lower()
    if module == "vision_transformer_hybrid":
        result["layers"] = next(layers for key, layers in HYBRIDS.items() if key in name)
    return result | ({"distilled": True} if cls == "VisionTransformerDistilled" else {})


def weights(name: str) -> dict[str, dict[str, Any]]:
    """Returns the settings of the weights of an architecture by tag, without the defaults of PretrainedCfg."""
    result = {}
    default: Any = _registry._model_default_cfgs[name]
    for tag in default.tags:
        cfg = dataclasses.asdict(_registry._model_pretrained_cfgs[f"{name}.{tag}" if tag else name])
        if cfg["hf_hub_id"] == f"timm/{name}.{tag}":
            cfg["hf_hub_id"] = "timm/"
        kept = {key: value for key, value in cfg.items() if key not in ("architecture", "tag")}
        result[tag] = {key: value for key, value in kept.items() if json.dumps(value) != json.dumps(DEFAULT[key])}
    return result


def usual(cfgs: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the settings that most weights of a module share."""
    result = {}
    for key in sorted({key for cfg in cfgs for key in cfg} - {"url", "hf_hub_filename"}):
        (text, count), *_ = Counter(json.dumps(cfg.get(key, DEFAULT[key])) for cfg in cfgs).most_common(1)
        if text != json.dumps(DEFAULT[key]) and 2 * count > len(cfgs):
            result[key] = json.loads(text)
    return result


def short(cfg: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings that differ from the shared ones."""
    full = {key: cfg.get(key, DEFAULT[key]) for key in sorted({*cfg, *common})}
    return {key: value for key, value in full.items() if json.dumps(value) != json.dumps(common.get(key, DEFAULT[key]))}


def main() -> None:
    """Writes the table."""
    rows: dict[str, tuple[str, dict[str, Any], dict[str, dict[str, Any]]]] = {}
    unsupported: dict[str, str] = {}
    for module, selects in MODULES.items():
        for name in filter(selects, timm.list_models(module=module)):
            cls, given = recorded(module, name)
            given = {key: plain(value) for key, value in given.items() if key not in DROPPED}
            if reason := missing_layer(module, name, given):
                unsupported[name] = reason
            else:
                rows[name] = (module, arguments(cls, module, name, given), weights(name))
    common = {
        module: usual([cfg for each, _, cfgs in rows.values() if each == module for cfg in cfgs.values()])
        for module in sorted(MODULES)
    }
    deprecated = {
        old: new
        for module in MODULES
        for old, new in _registry._module_to_deprecated_models.get(module, {}).items()
        if new and new.partition(".")[0] in rows
    }
    compact = functools.partial(json.dumps, separators=(",", ":"))
    lines = [
        f" {json.dumps(name)}: "
        + compact(
            {
                "module": module,
                "arguments": given,
                "weights": {tag: short(cfg, common[module]) for tag, cfg in cfgs.items()},
            }
        )
        for name, (module, given, cfgs) in rows.items()
    ]
    parts = [
        f'"defaults": {json.dumps(common, indent=1)}',
        f'"unsupported": {json.dumps(unsupported, indent=1)}',
        f'"deprecated": {json.dumps(deprecated, indent=1)}',
        '"architectures": {\n' + ",\n".join(lines) + "\n}",
    ]
    TARGET.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    print(f"{TARGET.name}: {len(rows)} architectures, {len(unsupported)} unsupported, timm {timm.__version__}")


if __name__ == "__main__":
    main()
