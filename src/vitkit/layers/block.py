"""Pre-norm encoder block with its MLPs, and the encoder as a list of blocks (ViT paper, equations 2-3)."""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitkit.layers.activations import activation
from vitkit.layers.attention import Attention
from vitkit.layers.position import Place


def layer_norm(width: int, eps: float) -> nn.LayerNorm:
    """LayerNorm over the width; eps is 1e-6 in JAX and timm weights, 1e-12 in Hugging Face ViT."""
    return nn.LayerNorm(width, eps=eps)


class DropPath(nn.Module):
    """Stochastic depth: drops a residual branch for whole samples, and scales up the rest (Huang et al. 2016)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(
        self, x: Float[Tensor, "b ..."], lengths: Int[Tensor, " pictures"] | None = None
    ) -> Float[Tensor, "b ..."]:
        """`x` with a share `rate` of its samples zeroed in training; `x` itself otherwise.

        `lengths` are the tokens of each picture where pictures are packed one after the other (`layers.packing`).
        """
        if self.rate == 0.0 or not self.training:
            return x
        samples = x.shape[0] if lengths is None else lengths.shape[0]
        keep = torch.rand(samples, *([1] * (x.ndim - 1)), device=x.device) >= self.rate
        if lengths is not None:
            keep = keep.repeat_interleave(lengths.to(x.device), dim=0)
        return x * keep.to(x.dtype) / (1.0 - self.rate)


class LayerScale(nn.Module):
    """A learned factor for each channel of a residual branch (Touvron et al. 2021, CaiT)."""

    def __init__(self, width: int, initial: float):
        super().__init__()
        self.initial = initial
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """`x` scaled channel by channel."""
        return x * self.gamma


class MLP(nn.Module):
    """Two dense layers with an activation between, dropout after each (ViT paper, section 3.1 and Table 3)."""

    def __init__(self, width: int, hidden: int, *, act: str = "gelu", dropout: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = activation(act)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Each token on its own."""
        return self.dropout(self.fc2(self.dropout(self.act(self.fc1(x)))))


class Block(nn.Module):
    """One encoder block: attention, then an MLP, each behind a LayerNorm and added to its input.

    It is handed its two branches, so that a family composes its own (another attention or MLP) and overrides nothing.
    `layer_scale` is the initial factor of both branches, or None for none.
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
        """The tokens after attention and MLP; `bias`, `rotation` and `relative` as in `Attention`."""
        x = x + self.drop_path(self.ls1(self.dropout(self.attn(self.norm1(x), bias, rotation, relative))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))

    def packed(
        self, x: Float[Tensor, "n d"], shapes: Sequence[tuple[int, int]], places: Sequence[Place]
    ) -> Float[Tensor, "n d"]:
        """`forward` of groups of (pictures, tokens of one) that follow each other, each told its place."""
        lengths = None
        if self.training and self.drop_path.rate:
            counts, sizes = (torch.tensor(each) for each in zip(*shapes, strict=True))
            lengths = sizes.repeat_interleave(counts)
        told = [place.told for place in places]
        x = x + self.drop_path(self.ls1(self.dropout(self.attn.packed(self.norm1(x), shapes, told))), lengths)
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))), lengths)

    def attention_weights(
        self,
        x: Float[Tensor, "b n d"],
        bias: Float[Tensor, "..."] | None = None,
        rotation: Float[Tensor, "2 p k"] | None = None,
        relative: Float[Tensor, "offsets k"] | None = None,
    ) -> Float[Tensor, "b h n n"]:
        """The attention weights that `forward` uses."""
        return self.attn.weights(self.norm1(x), bias, rotation, relative)


def run_blocks(
    blocks: Iterable[nn.Module],
    tokens: Float[Tensor, "b n d"],
    places: Iterable[Place],
    firsts: list[Tensor] | None = None,
) -> Float[Tensor, "b m d"]:
    """The tokens through all blocks, each told its place; there are as many places as blocks.

    Blocks of this package's layers give as many tokens as they take; those made for inference may give fewer. The
    first token of what each block gives, (b, d), is put at the end of `firsts`.
    """
    for block, place in zip(blocks, places, strict=True):
        tokens = block(tokens if place.added is None else tokens + place.added, **place.told)
        if firsts is not None:
            firsts.append(tokens[:, 0].clone())  # a view would keep all the tokens
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
    """`depth` blocks; see `Attention`, `MLP`, `SwiGLU` and `Block` for the numbers.

    Stochastic depth grows linearly from 0 for the first block to the full rate for the last (Huang et al. 2016; DeiT),
    or has the full rate in every block (DeiT III, DINOv2).
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
    """silu(gate) * value between two dense layers; the rows of `fc1` are first the gate, then the value.

    `hidden` is the width of each of the two.
    """

    def __init__(self, width: int, hidden: int, *, dropout: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Each token on its own."""
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.dropout(self.fc2(self.dropout(F.silu(gate) * value)))
