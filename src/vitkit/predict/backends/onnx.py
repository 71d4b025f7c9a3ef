"""ONNX files, run by ONNX Runtime on the CPU."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vitkit.checkpoints import CheckpointError
from vitkit.predict.backends import Runner

FILE = "model.onnx"


def open_file(path: Path, outputs: Sequence[str]) -> Runner:
    """The model in an ONNX file with torch's number of threads; CheckpointError where ONNX Runtime refuses it."""
    try:
        import onnxruntime
    except ImportError:
        raise ImportError("a model exported to ONNX needs ONNX Runtime: pip install 'vitkit[export]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception:
        # Its errors are of a dozen kinds of its own and quote the machine's paths.
        raise CheckpointError(f"{path.name} is no model that ONNX Runtime takes") from None
    names = [output.name for output in session.get_outputs()]
    inputs = [entry.name for entry in session.get_inputs()]
    if inputs != ["images"] or not set(outputs) <= set(names):
        raise CheckpointError(f"{path.name} makes {names} of {inputs}, not {list(outputs)} of images")

    def run(images: np.ndarray, wanted: Sequence[str]) -> list[np.ndarray]:
        return [np.asarray(value) for value in session.run(list(wanted), {"images": images})]

    return run
