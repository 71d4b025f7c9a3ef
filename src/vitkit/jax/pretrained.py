"""Reading and writing for the Hugging Face Flax classes: folders with a `config.json`, and any other checkpoint.

A Hugging Face folder is read here and not by `vitkit.checkpoints`, which leaves out the pooler; its table of names is
that module's, joined with our own (`convert.MODULES`).
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.flax import load_file, save_file

from vitkit import atomic
from vitkit.config import nearest
from vitkit.jax.convert import MODULES, Flat, Modules, flatten, to_flax, to_numpy
from vitkit.jax.flax_config import ViTAttributes, attributes_of
from vitkit.jax.load import load
from vitkit.models.vit import Config


def read(source: Any, config: Any, changes: Mapping[str, Any], *, classifier: bool) -> tuple[Any, Flat]:
    """The attributes and the flat tree at `source`.

    `config` is an object with the attributes, or the class to make it with, by `from_dict`. The head or the pooler that
    the class lacks is left out. ValueError for unknown `changes`.
    """
    folder = _folder(source)
    data, flat = _any(source) if folder is None else _huggingface(folder)
    if classifier and {"head/kernel", "pre_logits/kernel"} <= set(flat) and "num_labels" not in changes:
        raise ValueError(
            f"{source} has a pre-logits layer before its head, which Hugging Face's classifier has not: "
            "use vitkit.jax.load for it as it is, or num_labels=... for a new head"
        )
    if not isinstance(config, type):
        if changes:
            raise ValueError(f"set {', '.join(changes)} in the config that you give, or leave the config out")
    else:
        config = config.from_dict(_changed(data, changes))
    unused = "pre_logits/" if classifier else "head/"
    if classifier and "num_labels" in changes and "pre_logits/kernel" in flat:
        flat = {name: value for name, value in flat.items() if not name.startswith("head/")}
    return config, {name: value for name, value in flat.items() if not name.startswith(unused)}


def write(folder: Any, config: Any, model: Config, params: Mapping[str, Any]) -> None:
    """Writes `config.json` and `model.safetensors`, under the names of transformers 4, which every version reads."""
    classifier = bool(model.num_classes)
    state = to_numpy(flatten(params), _modules())
    if classifier:
        state = {name if name.startswith("classifier.") else f"vit.{name}": array for name, array in state.items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: jnp.asarray(array) for name, array in state.items()}
    atomic.write_file(folder / "model.safetensors", lambda part: save_file(tensors, part, {"format": "pt"}))
    kind = "ViTForImageClassification" if classifier else "ViTModel"
    data = {**config.to_dict(), "architectures": [kind], "model_type": "vit"}
    atomic.write_text(folder / "config.json", json.dumps(data, indent=2, sort_keys=True) + "\n")


@cache
def _modules() -> Modules:
    """Hugging Face's modules and Flax's, the pooler included: both tables agree on the order of fused parts."""
    from vitkit.checkpoints.formats.huggingface.vit import TABLE

    theirs = {rule.ours.removesuffix(".{leaf}").replace("{i}", "{n}"): rule.theirs for rule in TABLE.rules}
    joined = [
        (name.removesuffix(".{leaf}").replace("{i}", "{n}"), layout, (flax_name,))
        for torch_name, layout, flax_names in MODULES
        for name, flax_name in zip(theirs.get(torch_name, ()), flax_names, strict=False)
    ]
    return (*joined, ("pooler.dense", "dense", ("pre_logits",)))


def _folder(source: Any) -> Path | None:
    """The folder of a source that is a ViT of Hugging Face's, on this disk or the Hub; None for any other source."""
    from vitkit.checkpoints.locate import locate

    files = locate(str(source), None)
    whole = files.path.name in ("model.safetensors", "model.safetensors.index.json")
    return files.path.parent if whole and (files.config or {}).get("model_type") == "vit" else None


def _huggingface(folder: Path) -> tuple[dict[str, Any], Flat]:
    """`config.json` and the weights of a folder of either generation of names, one file or shards."""
    from vitkit.checkpoints.formats.huggingface.vit import FORMAT

    index = folder / "model.safetensors.index.json"
    whole = folder / "model.safetensors"
    parts = [whole.name] if whole.exists() else sorted(set(json.loads(index.read_text())["weight_map"].values()))
    if missing := [part for part in parts if not (folder / part).is_file()]:
        raise ValueError(f"{folder} has no {', '.join(missing)}")
    data = json.loads((folder / "config.json").read_text())
    state: dict[str, np.ndarray] = {}
    for name, array in (pair for part in parts for pair in load_file(folder / part).items()):
        for pattern, replacement in FORMAT.aliases:
            name = re.sub(pattern, replacement, name)
        # The mask token and the decoder of masked image modelling have no place in these classes.
        if not name.startswith(("embeddings.mask_token", "embeddings.position_ids", "decoder.")):
            state[name] = np.asarray(array)
    return data, to_flax(state, data.get("num_attention_heads", 12), _modules())


def _any(source: Any) -> tuple[dict[str, Any], Flat]:
    checkpoint = load(source)
    labels = dict(enumerate(checkpoint.labels)) if checkpoint.labels else None
    return attributes_of(checkpoint.config, labels), flatten(checkpoint.params)


def _changed(data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(ViTAttributes)} - {"other"} | {"num_labels", "label2id"}
    for name in changes:
        if name not in known:
            raise ValueError(f"unknown attribute '{name}'{nearest(name, sorted(known))}")
    kept = {name: value for name, value in data.items() if name not in ("id2label", "label2id", "num_labels")}
    return {**(kept if "num_labels" in changes else data), **changes}
