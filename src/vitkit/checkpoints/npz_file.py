"""Writing `.npz`: plain arrays, nothing pickled."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def write_npz(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Every tensor as an array of its type; bfloat16, which numpy does not have, as float32, which holds it exactly."""
    arrays = {
        name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()
        for name, tensor in tensors.items()
    }
    with path.open("wb") as file:
        np.savez(file, **arrays)  # tensors are never arrays of objects, which alone would be pickled
