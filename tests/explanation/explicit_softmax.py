"""Oracle for attention weights: replaces the fused kernel by an explicit softmax and records the weights.

It does not use the code under test. Gradients are autograd's, through the explicit softmax.
"""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from vitkit.layers import attention


class Kernel:
    """Replaces scaled_dot_product_attention; `weights` are the attention weights of all calls in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.weights: list[Tensor] = []
        monkeypatch.setattr(attention, "F", SimpleNamespace(scaled_dot_product_attention=self))

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0
    ) -> Tensor:
        """softmax(q k^T / sqrt(k) + mask) v."""
        assert dropout_p == 0.0
        logits = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        exponents = (logits if attn_mask is None else logits + attn_mask).exp()
        weights = exponents / exponents.sum(dim=-1, keepdim=True)
        if weights.requires_grad:
            weights.retain_grad()
        self.weights.append(weights)
        return weights @ v


def between_tokens(block: Any, weights: Tensor, grid: tuple[int, int]) -> Tensor:
    """Returns weights (b, h, n, n) from one kernel call; the rows or columns of an axial block are scattered."""
    if not hasattr(block, "axis"):
        return weights
    rows, columns = grid
    lines = rows if block.axis == "row" else columns
    batch = weights.shape[0] // lines
    full = torch.zeros(batch, weights.shape[1], rows * columns, rows * columns)
    for image in range(batch):
        for line in range(lines):
            for i in range(weights.shape[-1]):
                for j in range(weights.shape[-1]):
                    query = line * columns + i if block.axis == "row" else i * columns + line
                    key = line * columns + j if block.axis == "row" else j * columns + line
                    full[image, :, query, key] = weights[image * lines + line, :, i, j]
    return full
