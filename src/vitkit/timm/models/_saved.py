"""Reads the architecture, arguments and pretrained_cfg of a model from a folder or Hub id with timm's config.json."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitkit.checkpoints import CheckpointError, bounds
from vitkit.checkpoints.formats.timm._architectures import Architecture
from vitkit.checkpoints.hub import download
from vitkit.checkpoints.json_files import read_json
from vitkit.checkpoints.locate import WEIGHTS, locate
from vitkit.config import JsonDict
from vitkit.timm.models._arguments import check_saved
from vitkit.timm.models._registry import CFG_DEFAULTS, CFG_KEYS, resolve_name
from vitkit.timm.models.beit import Beit
from vitkit.timm.models.deit import VisionTransformerDistilled
from vitkit.timm.models.eva import Eva
from vitkit.timm.models.resnetv2 import ResNetV2
from vitkit.timm.models.vision_transformer import VisionTransformer

Source = str | os.PathLike[str]
CLASSES: dict[str, Any] = {
    "vision_transformer": VisionTransformer,
    "vision_transformer_hybrid": VisionTransformer,
    "deit": VisionTransformer,
    "beit": Beit,
    "eva": Eva,
    "resnetv2": ResNetV2,
}
# Settings that name or hold weights. Those in a file do not replace the weights of its folder.
WEIGHTS_KEYS = ("file", "state_dict", "custom_load")


def complete_arguments(architecture: Architecture, cfg: JsonDict, given: JsonDict) -> tuple[Any, JsonDict]:
    """Returns the model class of an architecture, and its arguments, completed from the pretrained_cfg."""
    arguments = architecture.arguments | given
    distilled = arguments.pop("distilled", False)
    for name in ("num_classes", "global_pool"):
        if cfg.get(name) is not None:
            arguments.setdefault(name, cfg[name])
    channels, *size = cfg["input_size"]
    arguments.setdefault("in_chans", channels)
    if cfg.get("fixed_input_size"):
        arguments.setdefault("img_size", tuple(size))
    if architecture.module == "vision_transformer_hybrid":
        arguments.setdefault("patch_size", 1)
    return (VisionTransformerDistilled if distilled else CLASSES[architecture.module]), arguments


def read_folder(source: str, rest: str, cache_dir: Source | None) -> tuple[JsonDict, str, JsonDict]:
    """Returns pretrained_cfg, architecture and model arguments of a folder or Hub id with timm's config.json.

    Raises CheckpointError for an invalid file, and for sizes that the weights next to it do not have.
    """
    if source == "hf-hub":
        owner, _, revision = rest.partition("@")
        folder = download(owner, revision or None, cache_dir)[0]
        extra: JsonDict = {"hf_hub_id": rest, "source": "hf-hub"}
    else:
        folder = Path(rest).expanduser()
        extra = {"file": str(folder), "source": "local-dir"}
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"Config file not found: {path}")
    data = read_json(path)
    cfg: Any = data.get("pretrained_cfg", data)
    arguments, name = data.get("model_args") or {}, data.get("architecture")
    if not isinstance(cfg, Mapping) or not isinstance(arguments, Mapping) or not isinstance(name, str):
        raise CheckpointError(
            f"{path} is not a config.json of timm: architecture must be a string, model_args and pretrained_cfg must "
            "be objects; pass the folder as pretrained= together with the name of an architecture"
        )
    arguments = {key: value for key, value in arguments.items() if value is not None}
    cfg = {key: value for key, value in cfg.items() if key in CFG_KEYS and key not in WEIGHTS_KEYS} | extra
    cfg |= {key: data[key] for key in ("num_classes", "label_names", "label_descriptions") if key in data}
    cfg = _with_arguments(cfg, arguments, path)
    _check_sizes(folder, resolve_name(name)[0], cfg, arguments)
    return cfg, name, arguments


def _with_arguments(cfg: JsonDict, arguments: Mapping[str, Any], path: Path) -> JsonDict:
    """Returns a pretrained_cfg with the image size and number of channels of the saved arguments."""
    size = cfg.get("input_size") or CFG_DEFAULTS["input_size"]
    if not isinstance(size, list | tuple) or len(size) != 3 or not all(type(side) is int and side > 0 for side in size):
        raise CheckpointError(f"{path}: input_size is {str(size)[:60]}; expected [channels, height, width]")
    channels, *sides = size
    if arguments.get("dynamic_img_size"):
        cfg["fixed_input_size"] = False
    if arguments.get("in_chans") is not None:
        channels = arguments["in_chans"]
    if (given := arguments.get("img_size")) is not None and cfg.get("fixed_input_size"):
        sides = list(given) if isinstance(given, list | tuple) else [given, given]
    return cfg | {"input_size": (channels, *sides)}


def _check_sizes(folder: Path, architecture: Architecture, cfg: JsonDict, arguments: JsonDict) -> None:
    """Raises CheckpointError if saved sizes are invalid, or larger than those of the weights in the same folder."""
    cls, arguments = complete_arguments(architecture, cfg, arguments)
    try:
        config = cls.config_of(**check_saved(cls.arguments_class, arguments))
    except (ValueError, TypeError, AssertionError, ArithmeticError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: {' '.join(str(error).split())[:900]}") from None
    bounds.check_requested(config.image_size)
    has_weights = any((folder / name).is_file() for name in WEIGHTS)
    bounds.check_config(config, locate(str(folder), None).tensors if has_weights else None)
