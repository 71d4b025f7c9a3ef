"""Token pooling, multi-head attention pooling (MAP), the pre-logits layer, and the last layer of DINO's head."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers.block import MLP, layer_norm
from vitkit.layers.features import Features


class Prototypes(nn.Module):
    """Weight-normalized linear layer without bias. Its parameters are named as in DINO's checkpoints."""

    def __init__(self, width: int, outputs: int, *, fixed_norm: bool):
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(outputs, 1), requires_grad=not fixed_norm)
        self.weight_v = nn.Parameter(torch.empty(outputs, width).uniform_(-(width**-0.5), width**-0.5))

    def forward(self, x: Float[Tensor, "b d"], *, frozen: bool = False) -> Float[Tensor, "b k"]:
        """Returns the output of the linear layer. If `frozen` is True, the weight gets no gradient."""
        weight = self.weight_g * F.normalize(self.weight_v, dim=1)
        return F.linear(x, weight.detach() if frozen else weight)


def pool_tokens(features: Features, pool: str) -> Float[Tensor, "b *n d"]:
    """Pools tokens: class token (`token`), mean of the patches (`gap`), both (`token+gap`), or all tokens (`none`).

    Class tokens of earlier blocks, if the features have any, are concatenated before that of the last block. Raises
    ValueError for an unknown `pool`.
    """
    if pool == "token":
        return class_tokens(features)
    if pool == "gap":
        return features.patches.mean(dim=1)
    if pool == "token+gap":
        return torch.cat([class_tokens(features), features.patches.mean(dim=1)], dim=1)
    if pool == "none":
        return features.tokens
    raise ValueError(f"unknown pool '{pool}'; choose one of token, gap, token+gap, none")


def class_tokens(features: Features) -> Float[Tensor, "b d"]:
    """Concatenates the class tokens of the last blocks, in the order of the blocks."""
    if features.earlier is None:
        return features.class_token
    return torch.cat([features.earlier.flatten(1), features.class_token], dim=1)


class MapPool(nn.Module):
    """Multi-head attention pooling: a trainable query attends to all tokens, and a residual MLP follows.

    The MAP head of Zhai et al. 2022, "Scaling Vision Transformers", section 3.
    """

    def __init__(self, width: int, num_heads: int, mlp_width: int, *, act: str = "gelu", norm_eps: float = 1e-6):
        super().__init__()
        self.num_heads = num_heads
        self.latent = nn.Parameter(torch.zeros(1, 1, width))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm = layer_norm(width, norm_eps)
        self.mlp = MLP(width, mlp_width, act=act)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        """Returns the pooled tokens, one vector per image."""
        query = self.q(self.latent.expand(x.shape[0], -1, -1))
        q = rearrange(query, "b n (h k) -> b h n k", h=self.num_heads)
        k, v = rearrange(self.kv(x), "b n (two h k) -> two b h n k", two=2, h=self.num_heads).unbind(0)
        pooled = self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b h n k -> b n (h k)"))
        return (pooled + self.mlp(self.norm(pooled)))[:, 0]


def pre_logits(width: int, out: int) -> nn.Sequential:
    """Returns the hidden layer of the pre-training head: a linear layer and tanh (ViT paper, section 3.1)."""
    return nn.Sequential(OrderedDict(fc=nn.Linear(width, out), act=nn.Tanh()))
