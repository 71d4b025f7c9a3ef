"""Loads and saves checkpoints for the Flax classes.

Folders of transformers are not loaded by `vitkit.checkpoints`, which ignores the pooler.
"""

import copy
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax.core import unfreeze
from flax.serialization import to_bytes
from safetensors.flax import save_file

from vitkit import atomic
from vitkit.checkpoints.containers import open_weights
from vitkit.config import JsonDict
from vitkit.jax.convert import Flat, PyTree, flatten, to_array
from vitkit.jax.load import load
from vitkit.text import printable
from vitkit.transformers import hub
from vitkit.transformers.flax_config import Attributes, attributes_of
from vitkit.transformers.flax_tree import from_google, from_torch, to_torch
from vitkit.transformers.hub import Argument

MSGPACK = "flax_model.msgpack"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
# Arguments of the constructor that are not attributes of the config.
CONSTRUCTOR = ("seed", "input_shape", "add_pooling_layer")
# A subclass of `FlaxViTPreTrainedModel`, which imports this module.
ModelClass = Any


def read(
    source: str | os.PathLike[str],
    config: Attributes,
    model_class: ModelClass,
    kwargs: Mapping[str, Argument],
    *,
    from_pt: bool,
) -> tuple[Attributes, Flat, dict[str, Argument]]:
    """Returns the config, the parameters by flat name (without the prefix `vit/`), and the constructor arguments.

    `config` is a config, the path of one, or None for the saved one. `kwargs` override its attributes. The head is left
    out for a model without classifier, the pooler for a classifier. Raises FileNotFoundError if there is no checkpoint.
    """
    location, rest = hub.locate(source, kwargs)
    given = {name: rest.pop(name) for name in CONSTRUCTOR if name in rest}
    data = _config_json(location)
    own_names = data is not None and data.get("model_type") == "vit"
    if data is not None and own_names:
        names = WEIGHTS if from_pt else (MSGPACK, *WEIGHTS)
        tensors = open_weights(location.find_weights(*names))
        flat = from_torch({name: tensors.read(name) for name in tensors.infos})
    else:
        data, flat = _read_other(location)
    if config is None or isinstance(config, str | os.PathLike):
        own = data if config is None else replace(location, source=os.fspath(config)).read_json("config.json")
        rest = {"name_or_path": os.fspath(source), **rest}
        config, more = model_class.config_class.from_dict(own, return_unused_kwargs=True, **rest)
    else:
        config, more = copy.copy(config), rest
    classifier = model_class.classifier
    if classifier and not own_names and {"classifier/kernel", "pooler/dense/kernel"} <= set(flat):
        if "num_labels" not in rest:
            raise ValueError(
                f"{printable(location.source)} has a pre-logits layer before its head, which the Hugging Face "
                "classifier does not support; load it with vitkit.jax.load, or pass num_labels=... for a new head"
            )
        flat = {name: value for name, value in flat.items() if not name.startswith("classifier/")}
    unused = "pooler/" if classifier else "classifier/"
    return config, {name: value for name, value in flat.items() if not name.startswith(unused)}, {**given, **more}


def _config_json(location: hub.Location) -> JsonDict | None:
    path = Path(location.source)
    if path.is_file():
        return None
    try:
        return location.read_json("config.json")
    except FileNotFoundError:
        if not path.exists():
            raise
        return None


def _read_other(location: hub.Location) -> tuple[JsonDict, Flat]:
    """Reads a checkpoint that is not in the format of transformers, and derives the config attributes."""
    checkpoint = load(location.checkpoint()).in_target_units()
    labels = dict(enumerate(checkpoint.labels)) if checkpoint.labels else None
    return attributes_of(checkpoint.config, labels), from_google(checkpoint.config, flatten(checkpoint.params))


def write(
    folder: str | os.PathLike[str],
    class_name: str,
    config: Attributes,
    params: Mapping[str, PyTree],
    *,
    as_msgpack: bool,
) -> list[str]:
    """Writes config.json, and the weights with the names of transformers 4. Returns the names of the files."""
    path = hub.make_folder(folder)
    config = copy.copy(config)
    config.architectures = [class_name.removeprefix("Flax")]
    config.save_pretrained(path)
    name = MSGPACK if as_msgpack else WEIGHTS[0]
    if as_msgpack:
        atomic.write_bytes(path / name, to_bytes(unfreeze(params)))  # type: ignore[arg-type]
    else:
        tensors = {key: jnp.asarray(to_array(tensor)) for key, tensor in to_torch(params).items()}
        atomic.write_file(path / name, lambda part: save_file(tensors, part, {"format": "pt"}))
    # Weights of an earlier save, which the classes of PyTorch or Flax would otherwise load first.
    for old in {MSGPACK, *WEIGHTS[:2]} - {name}:
        (path / old).unlink(missing_ok=True)
    return ["config.json", name]
