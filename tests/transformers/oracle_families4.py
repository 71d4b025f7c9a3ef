"""Computes reference outputs with transformers 4.57.6; test_families_version4.py runs it in a process of its own.

Usage: PYTHONPATH=(folder of transformers 4) python oracle_families4.py FOLDER. Each subfolder has a saved model and its
inputs in inputs.npz; the outputs are written to out.npz, and the model as version 4 saves it to `again/`.
"""

import inspect
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers
from oracle_transformers4 import Warnings, arrays


def write_outputs(folder: Path) -> None:
    """Writes everything that version 4 computes for one folder. A warning is an error."""
    inputs = {name: torch.from_numpy(array) for name, array in np.load(folder / "inputs.npz").items()}
    config = transformers.AutoConfig.from_pretrained(folder)
    model_class = getattr(transformers, config.architectures[0])
    model, report = model_class.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    accepted = inspect.signature(model_class.forward).parameters
    with torch.no_grad():
        output = model(**{name: tensor for name, tensor in inputs.items() if name in accepted})
    model.save_pretrained(folder / "again")
    results = arrays("plain", output) | {"names": np.array(list(model.state_dict()))}
    # Version 4 cannot prune heads with a relative position bias.
    if hasattr(model.base_model, "_prune_heads") and "bias_table" not in " ".join(model.state_dict()):
        model.prune_heads({0: [1], 2: [0, 3]})
        with torch.no_grad():
            output = model(**{name: tensor for name, tensor in inputs.items() if name in accepted})
        results |= arrays("pruned", output)
    np.savez(folder / "out.npz", **results)


def main(folder: Path) -> None:
    """Processes every model folder."""
    assert transformers.__version__.startswith("4."), transformers.__version__
    transformers.logging.get_logger("transformers").addHandler(Warnings(logging.WARNING))
    warnings.simplefilter("error")
    for path in sorted(folder.glob("*/config.json")):
        write_outputs(path.parent)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
