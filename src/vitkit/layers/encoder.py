"""A stack of encoder blocks from plain numbers: what every plain-shaped family is made of."""

from collections.abc import Iterable
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers.attention import Attention
from vitkit.layers.block import MLP, Block
from vitkit.layers.place import Place
from vitkit.layers.swiglu import SwiGLU


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
