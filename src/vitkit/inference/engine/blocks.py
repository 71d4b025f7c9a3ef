"""Encoder blocks for inference, with fused attention, fused MLP and fused residual additions.

The backends of attention all compute softmax(q k^T / sqrt(k) + bias) v; the fastest depends on the CPU.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.inference.engine.capabilities import Capabilities
from vitkit.inference.engine.dense import fused_name
from vitkit.inference.engine.merging import Merging
from vitkit.inference.engine.quantization import quantizing
from vitkit.kernels import attention as kernel
from vitkit.layers import MLP, Attention, Block, DropPath, LayerScale, SwiGLU, rotate
from vitkit.layers.activations import QUICK_GELU_FACTOR
from vitkit.layers.attention import add_relative_logits

AttentionBackend = Literal["fused", "kernel", "products"]
# Makes the dense layer of a name from weight, bias and optional activation.
Make = Callable[..., nn.Module]
# Layers that have no effect in evaluation mode.
DROPOUTS = (nn.Identity, nn.Dropout, DropPath)


def attention_backend(capabilities: Capabilities, dtype: torch.dtype) -> AttentionBackend:
    """Returns the fastest attention backend for a device and a dtype.

    PyTorch's fused kernel is the fastest in float32 and on CPUs with tiles (AMX). With AVX-512 bfloat16 only, two
    batched products and a softmax take 60 % of its time, and vitkit's own kernel, if it was compiled, half of that.
    """
    slow = capabilities.packs and capabilities.bfloat16 and not capabilities.tiles and dtype == torch.bfloat16
    return "fused" if not slow else "kernel" if kernel.available() else "products"


def attend(
    q: Float[Tensor, "b h m k"],
    k: Float[Tensor, "b h n k"],
    v: Float[Tensor, "b h n k"],
    bias: Float[Tensor, "..."] | None,
    backend: AttentionBackend,
) -> Float[Tensor, "b m d"]:
    """Returns the attention output with concatenated heads. `bias` is broadcast to (b, h, m, n)."""
    if backend == "kernel" and kernel.supports(q, k, v):
        return kernel.attention(q, k, v, bias)
    if backend != "fused":
        return _products(q, k, v, bias)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
    return out.transpose(1, 2).flatten(2)


def _products(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Computes attention for one image at a time, so that the attention weights (h, m, n) fit in the CPU cache."""
    b, h, m, width = q.shape
    out = q.new_empty(b, m, h, width)
    if bias is not None:
        bias = bias.expand(b, h, m, k.shape[2])
    scale = width**-0.5
    for index in range(b):
        query = q[index].contiguous() if scale == 1 else q[index] * scale
        logits = torch.bmm(query, k[index].contiguous().transpose(1, 2))
        if bias is not None:
            logits = logits + bias[index]
        out[index].copy_(torch.bmm(logits.softmax(-1).to(v.dtype), v[index].contiguous()).transpose(0, 1))
    return out.flatten(2)


def is_plain(block: nn.Module) -> bool:
    """Returns whether the inference engine supports every layer and the activation of a block.

    Subclasses are not supported, because they may compute something else, such as a linear layer with an adapter.
    """
    if type(block) is not Block or type(block.attn) is not Attention:
        return False
    return (
        is_plain_mlp(block.mlp)
        and type(block.attn.qkv) is type(block.attn.proj) is nn.Linear
        and all(type(scale) in (nn.Identity, LayerScale) for scale in (block.ls1, block.ls2))
        and type(block.dropout) in DROPOUTS
        and type(block.drop_path) in DROPOUTS
    )


def is_plain_mlp(mlp: nn.Module) -> bool:
    """Returns whether a module is an MLP or a SwiGLU whose layers are all supported by the inference engine."""
    if type(mlp) not in (MLP, SwiGLU) or (isinstance(mlp, MLP) and fused_name(mlp.act) is None):
        return False
    linear = type(mlp.get_submodule("fc1")) is type(mlp.get_submodule("fc2")) is nn.Linear
    return linear and type(mlp.get_submodule("dropout")) in DROPOUTS


class FusedAttention(nn.Module):
    """`Attention` with packed dense layers. `gamma` (LayerScale) is folded into the output projection.

    With `keep` only the first `keep` tokens are queries: the last block of a classifier needs no more. The model reads
    the relative position tables from `relative_position_bias_table` and `relative_positions`.
    """

    def __init__(
        self,
        attention: Attention,
        make: Make,
        backend: AttentionBackend,
        *,
        gamma: Tensor | None = None,
        keep: int | None = None,
    ):
        super().__init__()
        self.num_heads = attention.num_heads
        self.keep = keep
        self.backend: AttentionBackend = backend
        self.q_norm, self.k_norm = attention.q_norm, attention.k_norm
        self.relative_position_bias_table = attention.relative_position_bias_table
        self.relative_positions = attention.relative_positions
        weight, bias = attention.qkv.weight, attention.qkv.bias
        aligned = weight.shape[1] % (self.num_heads * kernel.VECTOR) == 0
        # The kernel can read the heads from the output of the projection.
        self.direct = backend == "kernel" and aligned and keep is None and isinstance(self.q_norm, nn.Identity)
        if attention.q_bias is not None and attention.v_bias is not None:
            added = torch.cat([attention.q_bias, torch.zeros_like(attention.q_bias), attention.v_bias])
            bias = added if bias is None else bias + added
        if keep is None:
            self.qkv = make("qkv", weight, bias)
        else:
            width = weight.shape[1]
            self.query = make("query", weight[:width], None if bias is None else bias[:width])
            self.key_value = make("key_value", weight[width:], None if bias is None else bias[width:])
        self.proj = make("proj", *scaled(attention.proj, gamma))

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        bias: Float[Tensor, "..."] | None = None,
        rotation: Float[Tensor, "2 p k"] | None = None,
        relative: Float[Tensor, "offsets k"] | None = None,
        residual: Float[Tensor, "b m d"] | None = None,
    ) -> Float[Tensor, "b m d"]:
        """Returns the attention output, plus `residual` if it is given."""
        if self.direct and bias is None and rotation is None and relative is None:
            return self.proj(kernel.packed(self.qkv(x), self.num_heads), residual=residual)
        q, k, v = self.heads(x, rotation)
        return self.project(q, k, v, add_relative_logits(bias, q, relative) if self.keep is None else bias, residual)

    @property
    def input_layers(self) -> list[nn.Module]:
        """The dense layers that take the tokens as input."""
        return [self.qkv] if self.keep is None else [self.query, self.key_value]

    def project(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, residual: Tensor | None
    ) -> Float[Tensor, "b m d"]:
        """Returns the attention output after the output projection, plus `residual` if it is given."""
        if self.keep is not None and bias is not None and bias.shape[-2] > 1:
            bias = bias[..., : self.keep, :]
        return self.proj(attend(q, k, v, bias, self.backend), residual=residual)

    def heads(self, x: Float[Tensor, "b n d"], rotation: Float[Tensor, "2 p k"] | None) -> tuple[Tensor, ...]:
        """Returns query, key and value, each of shape (b, h, n, k)."""
        if self.keep is None:
            q, k, v = (self._split(part) for part in self.qkv(x).chunk(3, dim=-1))
        else:
            q = self._split(self.query(x[:, : self.keep]))
            k, v = (self._split(part) for part in self.key_value(x).chunk(2, dim=-1))
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is None:
            return q, k, v
        # With `keep` all queries are special tokens, which have no position.
        return (q if self.keep is not None else rotate(q, rotation)), rotate(k, rotation), v

    def _split(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b h n k"]:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class FusedMLP(nn.Module):
    """`MLP` or `SwiGLU` with packed dense layers. `gamma` (LayerScale) is folded into the last layer.

    Gate and value of a SwiGLU are separate products.
    """

    def __init__(self, mlp: MLP | SwiGLU, make: Make, *, gamma: Tensor | None = None):
        super().__init__()
        self.gated = type(mlp) is SwiGLU
        factor = 1.0
        if isinstance(mlp, SwiGLU):
            weights = mlp.fc1.weight.chunk(2)
            biases = (None, None) if mlp.fc1.bias is None else mlp.fc1.bias.chunk(2)
            self.fc1 = make("fc1", weights[0], biases[0], act="silu")
            self.value = make("value", weights[1], biases[1])
        else:
            weight, bias, act = mlp.fc1.weight, mlp.fc1.bias, fused_name(mlp.act)
            if act == "quick_gelu":
                # x sigmoid(c x) = silu(c x) / c: oneDNN fuses only SiLU.
                act, factor = "silu", QUICK_GELU_FACTOR
                weight, bias = factor * weight, None if bias is None else factor * bias
            self.fc1 = make("fc1", weight, bias, act=act)
        weight, bias = scaled(mlp.fc2, gamma)
        self.fc2 = make("fc2", weight if factor == 1.0 else weight / factor, bias)

    @property
    def input_layers(self) -> list[nn.Module]:
        """The dense layers that take the tokens as input."""
        return [self.fc1, self.value] if self.gated else [self.fc1]

    def forward(self, x: Float[Tensor, "*b d"], residual: Float[Tensor, "*b d"] | None = None) -> Float[Tensor, "*b d"]:
        """Returns the output for each token, plus `residual` if it is given."""
        hidden = self.fc1(x)
        return self.fc2(self.value(x, factor=hidden) if self.gated else hidden, residual=residual)


class FusedBlock(nn.Module):
    """`Block` with fused attention, fused MLP, fused residual additions, and optional token merging.

    `merging` is shared by all blocks of a model. `index` is the index of this block; the `last` block restores merged
    tokens to their positions. With `merging`, `forward` raises ValueError for a bias, a rotation or relative positions.
    """

    def __init__(
        self,
        block: Block,
        attention: FusedAttention,
        mlp: FusedMLP,
        index: int,
        *,
        merging: Merging | None = None,
        last: bool = False,
    ):
        super().__init__()
        self.norm1, self.attn = quantizing(block.norm1, *attention.input_layers), attention
        self.norm2, self.mlp = quantizing(block.norm2, *mlp.input_layers), mlp
        self.index = index
        self.merging = merging
        self.last = last

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        bias: Float[Tensor, "..."] | None = None,
        rotation: Float[Tensor, "2 p k"] | None = None,
        relative: Float[Tensor, "offsets k"] | None = None,
    ) -> Float[Tensor, "b m d"]:
        """Returns the output tokens: all tokens, the tokens left after merging, or the first `keep` tokens."""
        if self.merging is not None:
            if bias is not None or rotation is not None or relative is not None:
                raise ValueError(
                    "tokens cannot be merged, because the attention of this model depends on token positions"
                )
            return self._forward_merging(self.merging, x)
        x = self.attn(self.norm1(x), bias, rotation, relative, self._queries(x))
        return self.mlp(self.norm2(x), x)

    def _forward_merging(self, merging: Merging, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        if self.index == 0:
            merging.begin()
        q, k, v = self.attn.heads(self.norm1(x), None)
        x = self.attn.project(q, k, v, merging.bias(), self._queries(x))
        if self.attn.keep is not None:
            return self.mlp(self.norm2(x), x)
        x = merging.merge(self.index, x, k)
        x = self.mlp(self.norm2(x), x)
        return merging.unmerge(x) if self.last else x

    def _queries(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        return x if self.attn.keep is None else x[:, : self.attn.keep]


def gamma_of(scale: nn.Module) -> Tensor | None:
    """Returns the `gamma` of a LayerScale, or None for other modules."""
    return scale.gamma if isinstance(scale, LayerScale) else None


def scaled(linear: nn.Linear, gamma: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Returns the weight and bias of a linear layer, with the output channels multiplied by `gamma`."""
    if gamma is None:
        return linear.weight, linear.bias
    return linear.weight * gamma[:, None], None if linear.bias is None else linear.bias * gamma
