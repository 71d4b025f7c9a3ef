"""The pre-norm encoder block and what it is made of (ViT paper, equations 2-3)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitkit.layers.activations import activation
from vitkit.layers.attention import Attention
from vitkit.layers.place import Place


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
