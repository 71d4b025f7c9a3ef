"""Loads peft's LoRA adapters. Their weights are merged into the weights of the base model.

W' = W + B A alpha / r (Hu et al. 2021, section 4.1); rank-stabilised adapters divide by the root of r instead.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from vitkit.checkpoints.checkpoint import CheckpointError, listing
from vitkit.checkpoints.containers import open_weights
from vitkit.checkpoints.detect import canonical
from vitkit.checkpoints.json_files import Json, read_json
from vitkit.checkpoints.tensors import Info, Tensors

CONFIG = "adapter_config.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin")
LORA = re.compile(r"(?P<module>.*)\.lora_(?P<side>[AB])(?:\.\w+)?\.weight")
PREFIX = re.compile(r"^base_model\.model\.")
# Initial values that leave the weights of the base model as they are.
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
# Options that have no effect on the merged weights. Any other `use_...` or `..._config` that is set is an error.
WITHOUT_EFFECT = ("use_rslora", "eva_config", "loftq_config", "lora_ga_config", "megatron_config")
EFFECTS = re.compile(
    r"use_.*|.*_config|alpha_pattern|layer_replication|trainable_token_indices|target_parameters|lora_bias"
)


def is_adapter(folder: Path) -> bool:
    """Returns whether a folder contains a peft adapter."""
    return (folder / CONFIG).is_file() and any((folder / name).is_file() for name in FILES)


def open_adapter(folder: Path, open_base: Callable[[str], tuple[Tensors, Json | None]]) -> tuple[Tensors, Json | None]:
    """Merges an adapter into its base model. Returns the merged tensors and the base model's config.json.

    `open_base` opens the base model by its path or Hub id. Raises CheckpointError if the adapter is of another kind.
    """
    settings = read_json(folder / CONFIG)
    base = _base(settings, folder)
    try:
        tensors, config = open_base(base)
        tensors, rename = canonical(tensors, config)
    except CheckpointError as error:
        raise CheckpointError(f"the base model of the adapter cannot be loaded: {error}") from None
    adapter = open_weights(next(folder / name for name in FILES if (folder / name).is_file()))
    parts = adapter.renamed(lambda name: PREFIX.sub("", name))
    merged = _merged(tensors, parts, rename, _scale(settings))
    heads = [name for name, info in merged.infos.items() if "classifier" in name or name.startswith("head.")]
    if any(merged.infos[name] != tensors.infos.get(name) for name in heads) and config is not None:
        # The labels of the base model are not those of another head.
        config = {key: value for key, value in config.items() if key not in ("id2label", "label2id", "num_classes")}
    return merged, config


def _base(settings: Json, folder: Path) -> str:
    kind, base = settings.get("peft_type"), settings.get("base_model_name_or_path")
    if kind != "LORA":
        raise CheckpointError(
            f"{CONFIG}: peft_type is {str(kind)[:40]!r}, but vitkit merges only LoRA adapters (peft_type 'LORA'); "
            "merge the adapter with peft (model.merge_and_unload().save_pretrained(folder)) and load the saved folder"
        )
    if not isinstance(base, str) or not base:
        raise CheckpointError(
            f"{CONFIG} does not name the base model; set base_model_name_or_path to the folder of the base model"
        )
    sibling = folder.resolve().parent / base
    return str(sibling) if not Path(base).exists() and sibling.exists() else base


def _scale(settings: Json) -> Callable[[int], float]:
    """Returns the scaling factor of an adapter. Raises CheckpointError for unsupported adapter options."""
    used = [
        name
        for name, value in settings.items()
        if EFFECTS.fullmatch(name) and name not in WITHOUT_EFFECT and value not in (None, False, {}, [])
    ]
    start = settings.get("init_lora_weights", True)
    if not isinstance(start, bool | str | None) or start not in PLAIN_STARTS:
        used.append("init_lora_weights")
    if used:
        raise CheckpointError(
            f"the adapter sets {listing(used)}, which vitkit does not support; "
            "merge the adapter with peft (model.merge_and_unload().save_pretrained(folder)) and load the saved folder"
        )
    alpha = settings.get("lora_alpha", 8)
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise CheckpointError(f"{CONFIG}: lora_alpha is {str(alpha)[:40]}, expected a finite number")
    stable = settings.get("use_rslora") is True
    return lambda rank: alpha / (math.sqrt(rank) if stable else rank)


def _merged(base: Tensors, adapter: Tensors, rename: Callable[[str], str], scale: Callable[[int], float]) -> Tensors:
    infos: dict[str, Info] = dict(base.infos)
    pairs: dict[str, dict[str, str]] = {}
    replaced: dict[str, str] = {}
    for name in adapter.infos:
        if match := LORA.fullmatch(name):
            pairs.setdefault(rename(f"{match['module']}.weight"), {})[match["side"]] = name
        else:
            ours = rename(name)
            replaced[ours] = name
            infos[ours] = adapter.infos[name]
    wrong = [name for name, sides in pairs.items() if not _fits(base.infos.get(name), sides, adapter)]
    if wrong or not pairs:
        raise CheckpointError(
            "the adapter does not match its base model; these matrices are missing or have the wrong shape: "
            f"{listing(wrong) if wrong else 'all LoRA matrices'}"
        )

    def read(name: str) -> Tensor:
        if name in replaced:
            return adapter.read(replaced[name])
        tensor: Any = base.read(name)
        if name in pairs:
            above, below = (adapter.read(pairs[name][side]).float() for side in "BA")
            tensor = (tensor.float() + above @ below * scale(below.shape[0])).to(tensor.dtype)
        return tensor

    return Tensors(infos, read, notes=(f"a LoRA adapter was merged into {len(pairs)} weight matrices",))


def _fits(weight: Info | None, sides: dict[str, str], adapter: Tensors) -> bool:
    if weight is None or set(sides) != {"A", "B"} or len(weight.shape) != 2:
        return False
    above, below = adapter.infos[sides["B"]], adapter.infos[sides["A"]]
    rank = below.shape[:1]
    floats = all(info.dtype.is_floating_point for info in (weight, above, below))
    return (
        floats and rank != (0,) and above.shape == (weight.shape[0], *rank) and below.shape == (*rank, weight.shape[1])
    )
