"""Computes reference outputs with transformers 4.57.6; test_transformers_version4.py runs it in a process of its own.

Usage: PYTHONPATH=(folder of transformers 4) python oracle_transformers4.py FOLDER. Each subfolder with a config.json
has the inputs in inputs.npz; the outputs are written to out.npz, and the model as version 4 saves it to `again/`.
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
    """Turns every warning during loading into an error."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError(f"loading logged a warning: {record.getMessage()}")


def arrays(prefix: str, output: Any) -> dict[str, np.ndarray]:
    """Returns the fields of an output as arrays, with the index of the layer in the name."""
    found = {}
    for name, value in output.items():
        for index, tensor in enumerate(value if isinstance(value, tuple) else [value]):
            found[f"{prefix}.{name}.{index}"] = tensor.detach().float().numpy()
    return found


def write_outputs(folder: Path) -> None:
    """Writes everything that version 4 computes for one folder."""
    inputs = {name: torch.from_numpy(array) for name, array in np.load(folder / "inputs.npz").items()}
    config = transformers.ViTConfig.from_pretrained(folder)
    model_class = getattr(transformers, config.architectures[0])
    mask = inputs.pop("head_mask")
    model = model_class.from_pretrained(folder, attn_implementation="eager")
    out = arrays("plain", model(**inputs, output_attentions=True, output_hidden_states=True))
    masked = model(**inputs, head_mask=mask, output_attentions=True)
    out |= arrays("masked", masked)
    if masked.get("loss") is not None:
        model.zero_grad()
        model(**inputs).loss.backward()
        out |= {f"gradient.{name}": parameter.grad.numpy() for name, parameter in model.named_parameters()}
    model.save_pretrained(folder / "again")
    model.prune_heads({0: [1], 1: [0]})
    out |= arrays("pruned", model(**inputs))
    half = model_class.from_pretrained(folder, dtype=torch.bfloat16)
    floats = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
    out |= arrays("half", half(**floats))
    np.savez(folder / "out.npz", **out)


def main(folder: Path) -> None:
    """Processes every model folder, then the images."""
    assert transformers.__version__.startswith("4."), transformers.__version__
    transformers.logging.get_logger("transformers").addHandler(Warnings(logging.WARNING))
    for path in sorted(folder.glob("*/config.json")):
        write_outputs(path.parent)
    processor = transformers.ViTImageProcessor.from_pretrained(folder / "images")
    paths = sorted((folder / "images").glob("*.png"))
    pixels = [processor(Image.open(path), return_tensors="np")["pixel_values"][0] for path in paths]
    np.savez(folder / "images" / "out.npz", *pixels)
    processor.save_pretrained(folder / "images" / "again")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
