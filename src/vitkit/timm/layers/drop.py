"""Stochastic depth, patch dropout and LayerScale, with timm's arguments."""

import torch
from torch import Tensor, nn

from vitkit import layers


class LayerScale(layers.LayerScale):
    """Trainable scale for each channel of a residual branch."""

    def __init__(self, dim: int, init_values: float = 1e-5):
        super().__init__(dim, init_values)


class DropPath(layers.DropPath):
    """Stochastic depth. `drop_prob` is the probability that a residual branch is dropped for an image."""

    def __init__(self, drop_prob: float = 0.0):
        super().__init__(drop_prob)

    @property
    def drop_prob(self) -> float:
        """The probability that a residual branch is dropped."""
        return self.rate

    @drop_prob.setter
    def drop_prob(self, value: float) -> None:
        """Sets the probability that a residual branch is dropped."""
        self.rate = value


class PatchDropout(nn.Module):
    """Drops random patch tokens in training. `prob` is the fraction of dropped patches."""

    def __init__(self, prob: float = 0.5, num_prefix_tokens: int = 1):
        super().__init__()
        self.prob = prob
        self.num_prefix_tokens = num_prefix_tokens

    def forward(self, x: Tensor) -> Tensor:
        """Returns the special tokens and the kept patch tokens. As in timm, the patch tokens are in random order."""
        if not self.training or not self.prob:
            return x
        special, patches = x.tensor_split([self.num_prefix_tokens], dim=1)
        count = max(1, int(patches.shape[1] * (1.0 - self.prob)))
        kept = torch.randn(patches.shape[:2], device=x.device).argsort(dim=-1)[:, :count]
        return torch.cat([special, patches.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))], dim=1)
