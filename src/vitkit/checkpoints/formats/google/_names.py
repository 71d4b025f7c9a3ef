"""Rules for tensor names shared by the JAX formats. Flax kernels have the input axis before the output axis."""

import re

from vitkit.checkpoints.table import CONVOLUTION, HEADS_OUT, TRANSPOSED, Rule, head_biases, heads_in
from vitkit.checkpoints.tensors import Info, Tensors


def dense(ours: str, theirs: str) -> list[Rule]:
    """Returns the tensor name rules for a dense layer, whose kernel is (in, out)."""
    return [Rule(f"{ours}.weight", (f"{theirs}/kernel",), TRANSPOSED), Rule(f"{ours}.bias", (f"{theirs}/bias",))]


def convolution(ours: str, theirs: str) -> list[Rule]:
    """Returns the tensor name rules for a convolution, whose kernel is (height, width, in, out)."""
    return [Rule(f"{ours}.weight", (f"{theirs}/kernel",), CONVOLUTION), Rule(f"{ours}.bias", (f"{theirs}/bias",))]


def norm(ours: str, theirs: str) -> list[Rule]:
    """Returns the tensor name rules for a LayerNorm."""
    return [Rule(f"{ours}.weight", (f"{theirs}/scale",)), Rule(f"{ours}.bias", (f"{theirs}/bias",))]


def projections(ours: str, theirs: str, parts: tuple[str, ...]) -> list[Rule]:
    """Returns the tensor name rules for query, key and value projections, which vitkit fuses into one matrix."""
    kernels, biases = (tuple(f"{theirs}/{part}/{leaf}" for part in parts) for leaf in ("kernel", "bias"))
    return [
        Rule(f"{ours}.weight", kernels, heads_in(len(parts))),
        Rule(f"{ours}.bias", biases, head_biases(len(parts))),
    ]


def output(ours: str, theirs: str) -> list[Rule]:
    """Returns the tensor name rules for the attention output projection."""
    return [Rule(f"{ours}.weight", (f"{theirs}/out/kernel",), HEADS_OUT), Rule(f"{ours}.bias", (f"{theirs}/out/bias",))]


def vit(attention: str, norm2: str, mlp: str) -> list[Rule]:
    """Returns the tensor name rules shared by Google's ViTs. The arguments are module names inside an encoder block."""
    block = "Transformer/encoderblock_{i}"
    return [
        Rule("cls_token", ("cls",)),
        *convolution("patch_embed.proj", "embedding"),
        *norm("blocks.{i}.norm1", f"{block}/LayerNorm_0"),
        *projections("blocks.{i}.attn.qkv", f"{block}/{attention}", ("query", "key", "value")),
        *output("blocks.{i}.attn.proj", f"{block}/{attention}"),
        *norm("blocks.{i}.norm2", f"{block}/{norm2}"),
        *dense("blocks.{i}.mlp.fc1", f"{block}/{mlp}/Dense_0"),
        *dense("blocks.{i}.mlp.fc2", f"{block}/{mlp}/Dense_1"),
        *norm("norm", "Transformer/encoder_norm"),
        *dense("pre_logits.fc", "pre_logits"),
        *dense("head", "head"),
    ]


def resnet_convolution(ours: str, theirs: str) -> Rule:
    """Returns the tensor name rule for a convolution whose kernel is standardized after it is loaded."""
    return Rule(f"{ours}.weight", (f"{theirs}/kernel",), CONVOLUTION)


def group_norm(ours: str, theirs: str, leaves: tuple[str, str]) -> list[Rule]:
    """Returns the tensor name rules for a GroupNorm. `leaves` are the names of the scale and shift parameters."""
    return [
        Rule(f"{ours}.{leaf}", (f"{theirs}/{their_leaf}",))
        for leaf, their_leaf in zip(("weight", "bias"), leaves, strict=True)
    ]


def squeeze_norms(tensors: Tensors, pattern: str) -> Tensors:
    """Reshapes norm parameters of shape (1, 1, 1, c), which older versions of Flax store, to (c,)."""
    old = {
        name
        for name, info in tensors.infos.items()
        if re.search(pattern, name) and len(info.shape) == 4 and info.shape[:3] == (1, 1, 1)
    }
    infos = {name: Info(info.shape[3:], info.dtype) if name in old else info for name, info in tensors.infos.items()}
    return Tensors(infos, lambda name: tensors.read(name).reshape(-1) if name in old else tensors.read(name))
