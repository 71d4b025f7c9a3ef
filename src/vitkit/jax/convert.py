"""Converts weights between the PyTorch and the Flax ViT. All values stay bitwise equal.

A flat tree is a dict whose keys join the names of modules by `/`, as Google's files do
(`Transformer/encoderblock_0/...`); `flatten` and `nest` convert between it and the nested dicts of Flax. Arrays are
numpy, with ml_dtypes for bfloat16. Names and layouts are those of `checkpoints.formats.google.big_vision`, extended by
the parameters that its files do not have.
"""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import torch
from flax import traverse_util
from jax.typing import ArrayLike
from torch import Tensor

from vitkit.checkpoints.formats.google import big_vision
from vitkit.checkpoints.table import Rule, Table

Flat = dict[str, np.ndarray]
# A tree as in JAX: nested containers, here dicts and dataclasses, with arrays as leaves. JAX types it as Any, too.
PyTree = Any
# The parameters of a Flax module, nested dicts of arrays.
Params = dict[str, PyTree]

POSITIONS = "Transformer/posembed_input/pos_embedding"
BLOCK = "Transformer/encoderblock_{i}"
ATTENTION = f"{BLOCK}/MultiHeadDotProductAttention_0"


def _norm(ours: str, theirs: str) -> list[Rule]:
    return [Rule(f"{ours}.weight", (f"{theirs}/scale",)), Rule(f"{ours}.bias", (f"{theirs}/bias",))]


TABLE = Table(
    (
        *(rule for rule in big_vision.TABLE.rules if rule.ours != "pos_embed"),
        Rule("pos_embed", (POSITIONS,)),
        Rule("reg_token", ("registers",)),
        *_norm("blocks.{i}.attn.q_norm", f"{ATTENTION}/query_ln"),
        *_norm("blocks.{i}.attn.k_norm", f"{ATTENTION}/key_ln"),
        Rule("blocks.{i}.ls1.gamma", (f"{BLOCK}/LayerScale_0/gamma",)),
        Rule("blocks.{i}.ls2.gamma", (f"{BLOCK}/LayerScale_1/gamma",)),
        *_norm("fc_norm", "fc_norm"),
    )
)


def to_flax(state: Mapping[str, Tensor | np.ndarray], num_heads: int) -> Flat:
    """Converts a PyTorch state dict to a flat dict of Flax parameters. Raises ValueError if a name is unknown."""
    if unknown := [name for name in state if TABLE.step(name) is None]:
        raise ValueError(f"the Flax ViT has no parameters for {', '.join(unknown[:3])}")
    flat = TABLE.saved({name: to_tensor(value) for name, value in state.items()}, num_heads)
    return {name: to_array(tensor) for name, tensor in flat.items()}


def to_torch(flat: Mapping[str, ArrayLike | Tensor]) -> dict[str, Tensor]:
    """Converts a flat dict of Flax parameters to a PyTorch state dict. Raises ValueError if a name is unknown."""
    if unknown := [name for name in flat if not TABLE.matches(name)]:
        raise ValueError(f"the PyTorch ViT has no parameters for {', '.join(unknown[:3])}")
    return TABLE.loaded({name: to_tensor(value) for name, value in flat.items()})


def to_tensor(value: ArrayLike | Tensor) -> Tensor:
    """Converts a numpy or JAX array to a new CPU tensor. Torch tensors are detached and moved to the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    array = np.array(value, order="C")
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_array(tensor: Tensor) -> np.ndarray:
    """Returns a CPU tensor as a numpy array that shares memory with the tensor."""
    if tensor.dtype is torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.contiguous().numpy()


def flatten(params: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Flattens a nested dict of parameters and joins the keys with `/`."""
    return traverse_util.flatten_dict(params, sep="/")


def nest(flat: Mapping[str, PyTree]) -> Params:
    """Converts a flat dict of parameters, whose keys are joined with `/`, to nested dicts."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")
