"""Table lines that the JAX formats share: flax names modules after their class and stores kernels input-first."""

import re

from vitkit.checkpoints.table import CONVOLUTION, HEADS_OUT, TRANSPOSED, Rule, head_biases, heads_in
from vitkit.checkpoints.tensors import Info, Tensors


def dense(ours: str, theirs: str) -> list[Rule]:
    """A dense layer: the kernel is (in, out)."""
    return [Rule(f"{ours}.weight", (f"{theirs}/kernel",), TRANSPOSED), Rule(f"{ours}.bias", (f"{theirs}/bias",))]


def convolution(ours: str, theirs: str) -> list[Rule]:
    """A convolution: the kernel is (rows, columns, in, out)."""
    return [Rule(f"{ours}.weight", (f"{theirs}/kernel",), CONVOLUTION), Rule(f"{ours}.bias", (f"{theirs}/bias",))]


def norm(ours: str, theirs: str) -> list[Rule]:
    """A LayerNorm."""
    return [Rule(f"{ours}.weight", (f"{theirs}/scale",)), Rule(f"{ours}.bias", (f"{theirs}/bias",))]


def projections(ours: str, theirs: str, parts: tuple[str, ...]) -> list[Rule]:
    """Input projections of attention, fused into one matrix of ours."""
    kernels, biases = (tuple(f"{theirs}/{part}/{leaf}" for part in parts) for leaf in ("kernel", "bias"))
    return [
        Rule(f"{ours}.weight", kernels, heads_in(len(parts))),
        Rule(f"{ours}.bias", biases, head_biases(len(parts))),
    ]


def output(ours: str, theirs: str) -> list[Rule]:
    """The output projection of attention."""
    return [Rule(f"{ours}.weight", (f"{theirs}/out/kernel",), HEADS_OUT), Rule(f"{ours}.bias", (f"{theirs}/out/bias",))]


def vit(attention: str, norm2: str, mlp: str) -> list[Rule]:
    """What every ViT of the lineage has, with the names its blocks give to attention, second norm and MLP."""
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
    """A standardised convolution; the stored kernel is raw."""
    return Rule(f"{ours}.weight", (f"{theirs}/kernel",), CONVOLUTION)


def group_norm(ours: str, theirs: str, leaves: tuple[str, str]) -> list[Rule]:
    """A GroupNorm, with its words for scale and shift."""
    return [
        Rule(f"{ours}.{leaf}", (f"{theirs}/{word}",)) for leaf, word in zip(("weight", "bias"), leaves, strict=True)
    ]


def squeezed(tensors: Tensors, pattern: str) -> Tensors:
    """Norms of the shape (1, 1, 1, c), as files of an older flax have, as the vectors they are."""
    old = {
        name
        for name, info in tensors.infos.items()
        if re.search(pattern, name) and len(info.shape) == 4 and info.shape[:3] == (1, 1, 1)
    }
    infos = {name: Info(info.shape[3:], info.dtype) if name in old else info for name, info in tensors.infos.items()}
    return Tensors(infos, lambda name: tensors.read(name).reshape(-1) if name in old else tensors.read(name))
