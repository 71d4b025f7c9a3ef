"""Writing the parts of a checkpoint folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor


def write_weights(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """`model.safetensors`, with the note that readers of transformers look for."""
    from safetensors.torch import save_file

    # Tensors that share memory are refused by the format: each gets its own.
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(own, folder / "model.safetensors", metadata={"format": "pt"})


def write_json(data: Mapping[str, Any], path: Path) -> None:
    """Indented by two, as the libraries write it."""
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
