"""Random weights and random images to compare two implementations."""

from typing import Any

import torch
from torch import Tensor


def random(module: Any) -> Any:
    """Adds noise to every parameter, so that no two are equal and none is zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def images(rows: int = 32, columns: int = 32) -> Tensor:
    return torch.randn(2, 3, rows, columns, generator=torch.Generator().manual_seed(1))
