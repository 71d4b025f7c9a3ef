"""Copies a model and replaces supported layers by fused layers. The original model does not change."""

import copy
import math
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.inference.engine.blocks import (
    AttentionBackend,
    FusedAttention,
    FusedBlock,
    FusedMLP,
    gamma_of,
    is_plain,
    is_plain_mlp,
)
from vitkit.inference.engine.dense import Dense, Float8Dense, PatchDense, has_float8_shape
from vitkit.inference.engine.merging import Merging
from vitkit.inference.engine.quantization import QuantizedDense, Range
from vitkit.layers import MLP, Attention, BatchNorm, Block, PatchEmbed, StdConv, SwiGLU, pad_same
from vitkit.models import Backbone, TokenBackbone, _pooling


@dataclass(frozen=True)
class Fusion:
    """Settings for the fused layers that replace the layers of a model.

    Attributes:
        dtype: Dtype of the tokens.
        inner: Dtype inside attention and MLPs.
        packed: Use oneDNN's packed weights.
        attention: Backend of attention.
        mixed: Norms keep float32 parameters.
        depth: Number of blocks.
        keep: The last block returns the first `keep` tokens only; None for all.
        merging: Token merging, shared by all blocks.
        ranges: Ranges of the inputs of int8 layers, by layer name; empty for no int8 layers.
        float8: Use float8 in the layers of attention and MLPs.
    """

    dtype: torch.dtype
    inner: torch.dtype
    packed: bool
    attention: AttentionBackend
    mixed: bool
    depth: int = 0
    keep: int | None = None
    merging: Merging | None = None
    ranges: dict[str, Range] = field(default_factory=dict)
    float8: bool = False

    def make(self, prefix: str, name: str, weight: Tensor, bias: Tensor | None, act: str = "") -> nn.Module:
        """Returns the dense layer that replaces the layer named `prefix.name`."""
        path = f"{prefix}.{name}"
        if self.float8 and prefix.endswith((".attn", ".mlp")) and has_float8_shape(weight):
            return Float8Dense(weight, bias, dtype=self.inner, act=act)
        if path not in self.ranges:
            return Dense(weight, bias, dtype=self.inner, packed=self.packed, act=act)
        dtype = self.inner if name in ("qkv", "query", "key_value", "value") else self.dtype
        # The output of the activation is the input of the next product, except in a gated MLP.
        to = self.ranges.get(f"{prefix}.fc2") if name == "fc1" and f"{prefix}.value" not in self.ranges else None
        return QuantizedDense(weight, bias, taken=self.ranges[path], dtype=dtype, act=act, to=to)


class FoldedConv(nn.Module):
    """A `StdConv` (weight-standardized convolution) whose weight is standardized in advance."""

    def __init__(self, convolution: StdConv, dtype: torch.dtype):
        super().__init__()
        self.kernel, self.stride = convolution.kernel_size[0], convolution.stride[0]
        self.same = convolution.same
        self.padding = convolution.padding
        self.weight = nn.Parameter(convolution.standardized_weight().to(dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the output of the convolution."""
        x = x.to(self.weight.dtype)
        x = pad_same(x, self.kernel, self.stride) if self.same else x
        return F.conv2d(x, self.weight, stride=self.stride, padding=self.padding)


def fuse(model: Backbone, fusion: Fusion) -> Backbone:
    """Returns a fast copy of a model in evaluation mode. The copy cannot be trained, saved or moved to another device.

    Raises ValueError if tokens are to be merged and the model does not support it.
    """
    network = copy.deepcopy(model).eval().requires_grad_(False)
    if fusion.merging is not None:
        check_mergeable(network)
    with torch.no_grad():
        for index, block in enumerate(network.blocks):
            if is_plain(block) and isinstance(block, Block):
                network.blocks[index] = _block(block, index, fusion)
        _replace(network, "", fusion)
        _convert(network, fusion)
    return network


def check_mergeable(model: nn.Module) -> None:
    """Raises ValueError unless tokens of the model can be merged. All blocks must be plain encoder blocks."""
    supported = (
        isinstance(model, TokenBackbone)
        and getattr(model.config, "position_at", "stem") == "stem"
        and all(isinstance(block, FusedBlock) or is_plain(block) for block in model.blocks)
    )
    if not supported:
        raise ValueError(
            "tokens can be merged only in models of plain encoder blocks, "
            "with position embeddings added before the first block"
        )


def special_tokens_read(model: Backbone, images: Tensor) -> int | None:
    """Returns the number of special tokens if the head uses no patch tokens, otherwise None.

    The head is run with NaN in all patch tokens. If its outputs are finite, it uses no patch tokens. Returns None
    unless all blocks are plain and the final norm is a LayerNorm or identity, which normalizes each token separately.
    """
    if (
        not isinstance(model, TokenBackbone)
        or not _is_known(model)
        or type(model.norm) not in (nn.LayerNorm, nn.Identity)
    ):
        return None
    if not all(is_plain(block) for block in model.blocks):
        return None
    with torch.inference_mode():
        embedded = model.embed(images[:1])
        tokens = torch.full_like(embedded.tokens, math.nan)
        tokens[:, : embedded.num_special] = embedded.special
        earlier = _pooling.blocks(model.config) - 1
        features = replace(embedded, tokens=tokens, earlier=tokens[:, :1].repeat(1, earlier, 1) if earlier else None)
        outputs = (model.represent(features), model.logits(features))
    finite = embedded.num_special > 0 and all(bool(output.isfinite().all()) for output in outputs)
    return embedded.num_special if finite else None


def fold_batch_norms(parent: nn.Module) -> None:
    """Folds each batch norm of a module into the convolution of the same name before it: `conv1` and `norm1`.

    In evaluation mode a batch norm is a scale and a shift per channel, computed here in float64. Pairs with hooks are
    not changed.
    """
    for name, norm in list(parent.named_children()):
        where = name.replace("norm", "conv")
        conv = getattr(parent, where, None)
        if type(norm) is not BatchNorm or type(conv) is not nn.Conv2d or _has_hooks(conv) or _has_hooks(norm):
            continue
        mean, variance = (each.double() for each in norm.statistics)
        scale = norm.weight.double() / (variance + norm.eps).sqrt()
        bias = 0.0 if conv.bias is None else conv.bias.double()
        weight = (conv.weight.double() * scale[:, None, None, None]).to(conv.weight.dtype)
        shift = (norm.bias.double() + (bias - mean) * scale).to(conv.weight.dtype)
        conv.weight = nn.Parameter(weight, requires_grad=False)
        conv.bias = nn.Parameter(shift, requires_grad=False)
        setattr(parent, name, nn.Identity())


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _is_known(module: nn.Module) -> bool:
    """Returns whether a module only calls its children.

    Third-party modules may also read the weights of children.
    """
    return type(module).__module__.startswith(("vitkit.models.", "vitkit.layers.", "torch.nn.modules."))


def _replace(parent: nn.Module, prefix: str, fusion: Fusion) -> None:
    known = _is_known(parent)
    if known:
        fold_batch_norms(parent)
    for name, child in list(parent.named_children()):
        path = f"{prefix}.{name}" if prefix else name
        if isinstance(child, FusedBlock):
            continue
        fast = _fast(child, parent, path, fusion) if known else None
        if fast is None:
            _replace(child, path, fusion)
        else:
            setattr(parent, name, fast)


def _fast(module: nn.Module, parent: nn.Module, path: str, fusion: Fusion) -> nn.Module | None:
    """Returns the fused layer that replaces a module, or None if there is none."""
    make = partial(fusion.make, path)
    if type(module) is Attention and type(module.qkv) is type(module.proj) is nn.Linear:
        return FusedAttention(module, make, fusion.attention)
    if isinstance(module, MLP | SwiGLU) and is_plain_mlp(module):
        return FusedMLP(module, make)
    if type(module) is StdConv:
        return FoldedConv(module, fusion.dtype)
    if isinstance(parent, PatchEmbed) and type(module) is nn.Conv2d and _has_disjoint_windows(module):
        return PatchDense(module, make, fusion.inner)
    if type(module) is nn.Linear:
        # The head and layers before the blocks: little work, and logits need the resolution of float32.
        return Dense(module.weight, module.bias, dtype=torch.float32, packed=fusion.packed)
    return None


def _has_disjoint_windows(convolution: nn.Conv2d) -> bool:
    """Returns whether a convolution is equal to a linear layer on patches that do not overlap."""
    return (
        convolution.stride == convolution.kernel_size
        and convolution.padding in (0, (0, 0))
        and convolution.dilation == (1, 1)
        and convolution.groups == 1
    )


def _block(block: Block, index: int, fusion: Fusion) -> FusedBlock:
    path = f"blocks.{index}"
    last = index == fusion.depth - 1
    attention = FusedAttention(
        block.attn,
        partial(fusion.make, f"{path}.attn"),
        fusion.attention,
        gamma=gamma_of(block.ls1),
        keep=fusion.keep if last else None,
    )
    if not isinstance(block.mlp, MLP | SwiGLU):
        raise TypeError(f"fused layers do not support the MLP class {type(block.mlp).__name__}")
    mlp = FusedMLP(block.mlp, partial(fusion.make, f"{path}.mlp"), gamma=gamma_of(block.ls2))
    return FusedBlock(block, attention, mlp, index, merging=fusion.merging, last=last)


def _convert(network: nn.Module, fusion: Fusion) -> None:
    """Converts the remaining parameters, such as position embeddings, to the dtype of the tokens."""
    for module in network.modules():
        if fusion.mixed and isinstance(module, nn.LayerNorm | nn.GroupNorm | BatchNorm):
            continue
        for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(fusion.dtype)
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(_as_weight)


def _as_weight(module: nn.Conv2d, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Forward pre-hook that casts the input of a convolution to the dtype of its weight."""
    return (arguments[0].to(module.weight.dtype), *arguments[1:])
