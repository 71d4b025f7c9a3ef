"""What transformers 4.57.6 makes of folders that vitkit wrote; run by test_transformers_version4.py in its own process.

Usage: PYTHONPATH=(folder of transformers 4) python oracle_transformers4.py FOLDER. For each folder in it that has a
config.json, given.npz holds the inputs; out.npz gets the outputs, and `again/` the model as version 4 writes it.
"""

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image


class Warnings(logging.Handler):
    """Every warning that loading prints, as an error."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError(f"opened with a warning: {record.getMessage()}")


def arrays(prefix: str, output: Any) -> dict[str, np.ndarray]:
    """The fields of an output, layers numbered."""
    found = {}
    for name, value in output.items():
        for index, tensor in enumerate(value if isinstance(value, tuple) else [value]):
            found[f"{prefix}.{name}.{index}"] = tensor.detach().float().numpy()
    return found


def answer(folder: Path) -> None:
    """Everything version 4 computes from one folder."""
    given = {name: torch.from_numpy(array) for name, array in np.load(folder / "given.npz").items()}
    config = transformers.ViTConfig.from_pretrained(folder)
    kind = getattr(transformers, config.architectures[0])
    mask = given.pop("head_mask")
    model = kind.from_pretrained(folder, attn_implementation="eager")
    out = arrays("plain", model(**given, output_attentions=True, output_hidden_states=True))
    masked = model(**given, head_mask=mask, output_attentions=True)
    out |= arrays("masked", masked)
    if masked.get("loss") is not None:
        model.zero_grad()
        model(**given).loss.backward()
        out |= {f"gradient.{name}": parameter.grad.numpy() for name, parameter in model.named_parameters()}
    model.save_pretrained(folder / "again")
    model.prune_heads({0: [1], 1: [0]})
    out |= arrays("pruned", model(**given))
    half = kind.from_pretrained(folder, dtype=torch.bfloat16)
    floats = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in given.items()}
    out |= arrays("half", half(**floats))
    np.savez(folder / "out.npz", **out)


def main(folder: Path) -> None:
    """Answers every folder, then the pictures."""
    assert transformers.__version__.startswith("4."), transformers.__version__
    transformers.logging.get_logger("transformers").addHandler(Warnings(logging.WARNING))
    for path in sorted(folder.glob("*/config.json")):
        answer(path.parent)
    processor = transformers.ViTImageProcessor.from_pretrained(folder / "pictures")
    paths = sorted((folder / "pictures").glob("*.png"))
    pixels = [processor(Image.open(path), return_tensors="np")["pixel_values"][0] for path in paths]
    np.savez(folder / "pictures" / "out.npz", *pixels)
    processor.save_pretrained(folder / "pictures" / "again")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
