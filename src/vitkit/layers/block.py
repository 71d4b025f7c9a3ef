"""Pre-norm encoder blocks, MLPs, and a function that runs all blocks (ViT paper, equations 2-3)."""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitkit.layers.activations import activation
from vitkit.layers.attention import Attention
from vitkit.layers.position import PositionInput
from vitkit.layers.taps import Taps


def layer_norm(width: int, eps: float) -> nn.LayerNorm:
    """Returns a LayerNorm. `eps` is 1e-6 for JAX and timm weights, and 1e-12 for Hugging Face ViTs."""
    return nn.LayerNorm(width, eps=eps)


class DropPath(nn.Module):
    """Stochastic depth: randomly drops a residual branch for some samples of a batch (Huang et al. 2016)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(
        self, x: Float[Tensor, "b ..."], lengths: Int[Tensor, " images"] | None = None
    ) -> Float[Tensor, "b ..."]:
        """Zeroes samples with probability `rate` and scales the others. In evaluation mode, returns `x` unchanged.

        `lengths` are the numbers of tokens per image of a packed sequence (`layers.packing`).
        """
        if self.rate == 0.0 or not self.training:
            return x
        samples = x.shape[0] if lengths is None else lengths.shape[0]
        keep = torch.rand(samples, *([1] * (x.ndim - 1)), device=x.device) >= self.rate
        if lengths is not None:
            keep = keep.repeat_interleave(lengths.to(x.device), dim=0)
        return x * keep.to(x.dtype) / (1.0 - self.rate)


class LayerScale(nn.Module):
    """Trainable scale for each channel of a residual branch (Touvron et al. 2021, CaiT)."""

    def __init__(self, width: int, initial: float):
        super().__init__()
        self.initial = initial
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Multiplies each channel of `x` by its trainable scale."""
        return x * self.gamma


class MLP(nn.Module):
    """MLP with two linear layers, an activation and dropout (ViT paper, section 3.1, Table 3)."""

    def __init__(self, width: int, hidden: int, *, act: str = "gelu", dropout: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = activation(act)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Applies the MLP to each token."""
        return self.dropout(self.fc2(self.dropout(self.act(self.fc1(x)))))


class Block(nn.Module):
    """Pre-norm encoder block: attention and MLP, each with LayerNorm and a residual connection.

    Both branches are passed as modules, so that a model family can use another attention or MLP without a subclass.
    `layer_scale` is the initial LayerScale of both branches, None for no LayerScale.
    """

    def __init__(
        self,
        attention: Attention,
        mlp: nn.Module,
        *,
        width: int,
        norm_eps: float = 1e-6,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.norm1 = layer_norm(width, norm_eps)
        self.attn = attention
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.norm2 = layer_norm(width, norm_eps)
        self.mlp = mlp
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.drop_path = DropPath(drop_path)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        bias: Float[Tensor, "..."] | None = None,
        rotation: Float[Tensor, "2 p k"] | None = None,
        relative: Float[Tensor, "offsets k"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Returns the tokens after attention and MLP. See `Attention` for `bias`, `rotation` and `relative`."""
        x = x + self.drop_path(self.ls1(self.dropout(self.attn(self.norm1(x), bias, rotation, relative))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))

    def packed(
        self, x: Float[Tensor, "n d"], shapes: Sequence[tuple[int, int]], positions: Sequence[PositionInput]
    ) -> Float[Tensor, "n d"]:
        """Returns the results of `forward` for each group of images in a packed sequence.

        `shapes` are the (images, tokens per image) of each group, `positions` its positional inputs.
        """
        lengths = None
        if self.training and self.drop_path.rate:
            counts, sizes = (torch.tensor(each) for each in zip(*shapes, strict=True))
            lengths = sizes.repeat_interleave(counts)
        inputs = [position.kwargs for position in positions]
        x = x + self.drop_path(self.ls1(self.dropout(self.attn.packed(self.norm1(x), shapes, inputs))), lengths)
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))), lengths)

    def attention_weights(
        self,
        x: Float[Tensor, "b n d"],
        bias: Float[Tensor, "..."] | None = None,
        rotation: Float[Tensor, "2 p k"] | None = None,
        relative: Float[Tensor, "offsets k"] | None = None,
    ) -> Float[Tensor, "b h n n"]:
        """Returns the attention weights that `forward` uses, of shape (b, h, n, n)."""
        return self.attn.weights(self.norm1(x), bias, rotation, relative)


def run_blocks(
    blocks: Iterable[nn.Module],
    tokens: Float[Tensor, "b n d"],
    positions: Iterable[PositionInput],
    class_tokens: list[Tensor] | None = None,
    taps: Taps | None = None,
) -> Float[Tensor, "b m d"]:
    """Runs tokens through all blocks. Each block gets its own positional input from `positions`.

    `positions` has one entry per block. The blocks of this package return as many tokens as they get; blocks made for
    inference may return fewer. If `class_tokens` is a list, the first token (b, d) after each block is appended to it.
    `taps` collects the outputs of chosen blocks, and can stop after the last one.
    """
    for index, (block, position) in enumerate(zip(blocks, positions, strict=True)):
        tokens = block(tokens if position.added is None else tokens + position.added, **position.kwargs)
        if class_tokens is not None:
            class_tokens.append(tokens[:, 0].clone())  # a view would keep all tokens in memory
        if taps is not None and taps.add(index, tokens):
            break
    return tokens


def encoder_blocks(
    depth: int,
    *,
    width: int,
    num_heads: int,
    mlp_width: int,
    mlp: Literal["mlp", "swiglu"] = "mlp",
    activation: str = "gelu",
    norm_eps: float = 1e-6,
    qkv_bias: bool | Literal["qv"] = True,
    qk_norm: bool = False,
    relative_rows: int = 0,
    num_offsets: int = 0,
    layer_scale: float | None = None,
    stochastic_depth: float = 0.0,
    stochastic_depth_shape: Literal["linear", "constant"] = "linear",
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
) -> nn.ModuleList:
    """Builds `depth` encoder blocks. See `Attention`, `MLP`, `SwiGLU` and `Block` for the arguments.

    The rate of stochastic depth grows linearly from 0 in the first block to the full rate in the last (Huang et al.
    2016; DeiT), or is the full rate in every block (DeiT III, DINOv2).
    """

    def block(index: int) -> Block:
        linear = stochastic_depth_shape == "linear"
        return Block(
            Attention(
                width,
                num_heads,
                qkv_bias=qkv_bias,
                qk_norm_eps=norm_eps if qk_norm else None,
                relative_rows=relative_rows,
                num_offsets=num_offsets,
                dropout=attention_dropout,
            ),
            SwiGLU(width, mlp_width, dropout=dropout)
            if mlp == "swiglu"
            else MLP(width, mlp_width, act=activation, dropout=dropout),
            width=width,
            norm_eps=norm_eps,
            layer_scale=layer_scale,
            drop_path=stochastic_depth * (index / max(depth - 1, 1) if linear else 1.0),
            dropout=dropout,
        )

    return nn.ModuleList(block(index) for index in range(depth))


class SwiGLU(nn.Module):
    """Gated MLP, which computes silu(gate) * value between two linear layers (Shazeer 2020).

    `hidden` is the width of the gate and of the value. The rows of `fc1` are first the gate, then the value.
    """

    def __init__(self, width: int, hidden: int, *, dropout: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Applies the MLP to each token."""
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.dropout(self.fc2(self.dropout(F.silu(gate) * value)))
