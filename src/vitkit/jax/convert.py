"""The weights of the PyTorch twin as a Flax tree and back, bit for bit, by one table of modules and six layouts.

A flat tree has its names joined by `/`, as in a Google file (`Transformer/encoderblock_0/...`); `flatten` and `nest`
go between it and what Flax takes. Arrays are numpy, bfloat16 as ml_dtypes.
"""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from flax import traverse_util

if TYPE_CHECKING:
    import torch

Flat = dict[str, np.ndarray]

BLOCK = "Transformer/encoderblock_{n}"
ATTENTION = f"{BLOCK}/MultiHeadDotProductAttention_0"
MAP = "MAPHead_0"
MAP_ATTENTION = f"{MAP}/MultiHeadDotProductAttention_0"

# PyTorch module, layout, Flax modules; several Flax modules are stacked in that order in the one of PyTorch.
Modules = tuple[tuple[str, str, tuple[str, ...]], ...]
MODULES: Modules = (
    ("cls_token", "table", ("cls",)),
    ("reg_token", "table", ("registers",)),
    ("pos_embed", "table", ("Transformer/posembed_input/pos_embedding",)),
    ("patch_embed.proj", "conv", ("embedding",)),
    ("blocks.{n}.norm1", "norm", (f"{BLOCK}/LayerNorm_0",)),
    ("blocks.{n}.attn.qkv", "heads", tuple(f"{ATTENTION}/{name}" for name in ("query", "key", "value"))),
    ("blocks.{n}.attn.q_norm", "norm", (f"{ATTENTION}/query_ln",)),
    ("blocks.{n}.attn.k_norm", "norm", (f"{ATTENTION}/key_ln",)),
    ("blocks.{n}.attn.proj", "out", (f"{ATTENTION}/out",)),
    ("blocks.{n}.ls1.gamma", "table", (f"{BLOCK}/LayerScale_0/gamma",)),
    ("blocks.{n}.norm2", "norm", (f"{BLOCK}/LayerNorm_1",)),
    ("blocks.{n}.mlp.fc1", "dense", (f"{BLOCK}/MlpBlock_0/Dense_0",)),
    ("blocks.{n}.mlp.fc2", "dense", (f"{BLOCK}/MlpBlock_0/Dense_1",)),
    ("blocks.{n}.ls2.gamma", "table", (f"{BLOCK}/LayerScale_1/gamma",)),
    ("norm", "norm", ("Transformer/encoder_norm",)),
    ("attn_pool.latent", "table", (f"{MAP}/probe",)),
    ("attn_pool.q", "heads", (f"{MAP_ATTENTION}/query",)),
    ("attn_pool.kv", "heads", (f"{MAP_ATTENTION}/key", f"{MAP_ATTENTION}/value")),
    ("attn_pool.proj", "out", (f"{MAP_ATTENTION}/out",)),
    ("attn_pool.norm", "norm", (f"{MAP}/LayerNorm_0",)),
    ("attn_pool.mlp.fc1", "dense", (f"{MAP}/MlpBlock_0/Dense_0",)),
    ("attn_pool.mlp.fc2", "dense", (f"{MAP}/MlpBlock_0/Dense_1",)),
    ("fc_norm", "norm", ("fc_norm",)),
    ("pre_logits.fc", "dense", ("pre_logits",)),
    ("head", "dense", ("head",)),
)

Change = Callable[[np.ndarray, int], np.ndarray]


def _same(array: np.ndarray, heads: int) -> np.ndarray:
    return array


# For every layout: PyTorch leaf, Flax leaf, the array made Flax's (given the number of heads), and made PyTorch's.
LAYOUTS: dict[str, tuple[tuple[str, str, Change, Change], ...]] = {
    "table": (("", "", _same, _same),),
    "norm": ((".weight", "/scale", _same, _same), (".bias", "/bias", _same, _same)),
    "dense": ((".weight", "/kernel", lambda a, _: a.T, lambda a, _: a.T), (".bias", "/bias", _same, _same)),
    "conv": (
        (".weight", "/kernel", lambda a, _: a.transpose(2, 3, 1, 0), lambda a, _: a.transpose(3, 2, 0, 1)),
        (".bias", "/bias", _same, _same),
    ),
    "heads": (
        (".weight", "/kernel", lambda a, h: a.T.reshape(a.shape[1], h, -1), lambda a, _: a.reshape(a.shape[0], -1).T),
        (".bias", "/bias", lambda a, h: a.reshape(h, -1), lambda a, _: a.reshape(-1)),
    ),
    "out": (
        (".weight", "/kernel", lambda a, h: a.T.reshape(h, -1, a.shape[0]), lambda a, _: a.reshape(-1, a.shape[-1]).T),
        (".bias", "/bias", _same, _same),
    ),
}


def to_flax(state: Mapping[str, "torch.Tensor | np.ndarray"], num_heads: int, modules: Modules = MODULES) -> Flat:
    """The flat Flax tree of a PyTorch state dict; ValueError that names what the table does not know."""
    flat: Flat = {}
    for name, value in state.items():
        array, number, pattern = _array(value), *_numbered(name, r"\.(\d+)\.", ".{n}.")
        for torch_name, layout, flax_names in modules:
            leaf = next((leaf for leaf in LAYOUTS[layout] if torch_name + leaf[0] == pattern), None)
            if leaf is not None:
                parts = np.split(array, len(flax_names)) if flax_names[1:] else [array]
                for flax_name, part in zip(flax_names, parts, strict=True):
                    flat[flax_name.format(n=number) + leaf[1]] = np.ascontiguousarray(leaf[2](part, num_heads))
                break
        else:
            raise ValueError(f"'{name}' is no parameter of models/vit: it has no place in the Flax tree")
    return flat


def to_numpy(flat: Mapping[str, Any], modules: Modules = MODULES) -> Flat:
    """The state dict of the PyTorch twin as numpy arrays; ValueError that names what the table does not know."""
    state: Flat = {}
    left = dict(flat)
    for name in flat:
        if name not in left:
            continue
        number, pattern = _numbered(name, r"encoderblock_(\d+)/", "encoderblock_{n}/")
        for torch_name, layout, flax_names in modules:
            leaf = next((leaf for leaf in LAYOUTS[layout] if pattern in [each + leaf[1] for each in flax_names]), None)
            if leaf is not None:
                keys = [each.format(n=number) + leaf[1] for each in flax_names]
                if missing := [key for key in keys if key not in left]:
                    raise ValueError(f"'{name}' is there, but not {', '.join(missing)}")
                parts = [leaf[3](np.asarray(left.pop(key)), 0) for key in keys]
                state[torch_name.format(n=number) + leaf[0]] = np.concatenate(parts) if parts[1:] else parts[0]
                break
        else:
            raise ValueError(f"'{name}' is no parameter of the Flax ViT: it has no place in models/vit")
    return {name: np.ascontiguousarray(array) for name, array in state.items()}


def to_torch(flat: Mapping[str, Any]) -> dict[str, "torch.Tensor"]:
    """The state dict of the PyTorch twin."""
    import torch

    def tensor(array: np.ndarray) -> torch.Tensor:
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
        return torch.from_numpy(array.copy())

    return {name: tensor(array) for name, array in to_numpy(flat).items()}


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    """A nested tree with its names joined by `/`."""
    return traverse_util.flatten_dict(params, sep="/")


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A flat tree as Flax takes it."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")


def _numbered(name: str, pattern: str, template: str) -> tuple[str, str]:
    found = re.search(pattern, name)
    return (found[1], name.replace(found[0], template)) if found else ("", name)


def _array(value: Any) -> np.ndarray:
    if not hasattr(value, "detach"):
        return np.asarray(value)
    value = value.detach().cpu()
    if str(value.dtype) == "torch.bfloat16":
        import torch

        return value.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.numpy()
