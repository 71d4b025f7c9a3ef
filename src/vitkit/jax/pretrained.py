"""Loads and saves checkpoints for the Flax classes of Hugging Face transformers.

Hugging Face folders are not loaded by `vitkit.checkpoints`, which ignores the pooler; the names are those of
`checkpoints.formats.huggingface.vit`, and of the pooler.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
from safetensors.flax import load_file, save_file
from torch import Tensor

from vitkit import atomic
from vitkit.checkpoints.formats.huggingface import vit as huggingface
from vitkit.checkpoints.json_files import read_json
from vitkit.checkpoints.table import Rule, Table
from vitkit.config import Json, JsonDict, nearest
from vitkit.jax.convert import Flat, PyTree, flatten, to_array, to_flax, to_tensor, to_torch
from vitkit.jax.flax_config import Attributes, ViTAttributes, attributes_of
from vitkit.jax.load import load
from vitkit.models.vit import Config

TABLE = Table((*huggingface.TABLE.rules, Rule("pre_logits.fc.{leaf}", ("pooler.dense.{leaf}",))))


def read(
    source: str | os.PathLike[str], config: Attributes, changes: Mapping[str, object], *, classifier: bool
) -> tuple[Attributes, Flat]:
    """Returns the config and the flat dict of parameters of a checkpoint.

    `config` is a config, or the class that creates it (by `from_dict`). `changes` override its attributes. The head is
    omitted for a model without classifier, the pooler for a classifier. Raises ValueError for unknown `changes`.
    """
    folder = _huggingface_folder(source)
    data, flat = _read_other(source) if folder is None else _read_huggingface(folder)
    if classifier and {"head/kernel", "pre_logits/kernel"} <= set(flat) and "num_labels" not in changes:
        raise ValueError(
            f"{source} has a pre-logits layer before its head, which the Hugging Face classifier does not support; "
            "load it with vitkit.jax.load, or pass num_labels=... for a new head"
        )
    if not isinstance(config, type):
        if changes:
            raise ValueError(f"{', '.join(changes)} cannot be combined with config=; set them in the config")
    else:
        config = config.from_dict(_apply_changes(data, changes))
    unused = "pre_logits/" if classifier else "head/"
    if classifier and "num_labels" in changes and "pre_logits/kernel" in flat:
        flat = {name: value for name, value in flat.items() if not name.startswith("head/")}
    return config, {name: value for name, value in flat.items() if not name.startswith(unused)}


def write(folder: str | os.PathLike[str], config: Attributes, model: Config, params: Mapping[str, PyTree]) -> None:
    """Writes `config.json`, and `model.safetensors` with the parameter names of transformers 4."""
    classifier = bool(model.num_classes)
    state = TABLE.saved(to_torch(flatten(params)), model.num_heads)
    if classifier:
        state = {name if name.startswith("classifier.") else f"vit.{name}": tensor for name, tensor in state.items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: jnp.asarray(to_array(tensor)) for name, tensor in state.items()}
    atomic.write_file(folder / "model.safetensors", lambda part: save_file(tensors, part, {"format": "pt"}))
    model_class = "ViTForImageClassification" if classifier else "ViTModel"
    data = {**config.to_dict(), "architectures": [model_class], "model_type": "vit"}
    atomic.write_text(folder / "config.json", json.dumps(data, indent=2, sort_keys=True) + "\n")


def _huggingface_folder(source: str | os.PathLike[str]) -> Path | None:
    """Returns the folder of a Hugging Face ViT, downloaded if needed, or None for other checkpoints."""
    from vitkit.checkpoints.locate import locate

    files = locate(str(source), None)
    has_weights = files.path.name in ("model.safetensors", "model.safetensors.index.json")
    return files.path.parent if has_weights and (files.config or {}).get("model_type") == "vit" else None


def _read_huggingface(folder: Path) -> tuple[JsonDict, Flat]:
    """Reads `config.json` and the weights, which may be sharded. Names may be those of transformers 4 or 5."""
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    parts = [single.name] if single.exists() else sorted(set(read_json(index)["weight_map"].values()))
    if missing := [part for part in parts if not (folder / part).is_file()]:
        raise ValueError(f"the folder {folder} has no {', '.join(missing)}")
    data = read_json(folder / "config.json")
    state: dict[str, Tensor] = {}
    for name, array in (pair for part in parts for pair in load_file(folder / part).items()):
        for pattern, replacement in huggingface.FORMAT.aliases:
            name = re.sub(pattern, replacement, name)
        # These classes have no mask token and no decoder for masked image modeling.
        if not name.startswith(("embeddings.mask_token", "embeddings.position_ids", "decoder.")):
            state[name] = to_tensor(array)
    return data, to_flax(TABLE.loaded(state), data.get("num_attention_heads", 12))


def _read_other(source: str | os.PathLike[str]) -> tuple[JsonDict, Flat]:
    checkpoint = load(source).in_target_units()
    labels = dict(enumerate(checkpoint.labels)) if checkpoint.labels else None
    return attributes_of(checkpoint.config, labels), flatten(checkpoint.params)


def _apply_changes(data: Json, changes: Mapping[str, object]) -> JsonDict:
    known = {field.name for field in dataclasses.fields(ViTAttributes)} - {"other"} | {"num_labels", "label2id"}
    for name in changes:
        if name not in known:
            raise ValueError(f"unknown attribute '{name}'{nearest(name, sorted(known))}")
    without_labels = {name: value for name, value in data.items() if name not in ("id2label", "label2id", "num_labels")}
    return {**(without_labels if "num_labels" in changes else data), **changes}
