"""Exports models to OpenVINO (an .xml file with weights in a .bin file), and runs them on the CPU."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vitkit.checkpoints import CheckpointError
from vitkit.inference.runtimes._exported import Runner
from vitkit.inference.runtimes._trace import Traced

FILE = "model.xml"
# float16 halves the size of the weights; the computation is in float32.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2}


def write(traced: Traced, path: Path, precision: str) -> None:
    """Converts the torch.export program directly (without ONNX) to an .xml file and a .bin file."""
    try:
        import openvino
    except ImportError:
        raise ImportError(
            "exporting to OpenVINO needs the package openvino; run pip install 'vitkit[export]'"
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = openvino.convert_model(traced.program)
    model.inputs[0].get_tensor().set_names({"images"})
    for output, name in zip(model.outputs, traced.outputs, strict=True):
        output.get_tensor().set_names({name})
    openvino.save_model(model, str(path), compress_to_fp16=precision == "float16")


def open_file(path: Path, outputs: Sequence[str]) -> Runner:
    """Loads a float32 model that runs on as many threads as torch. Raises CheckpointError if the file is invalid."""
    try:
        import openvino
    except ImportError:
        raise ImportError(
            "running a model exported to OpenVINO needs the package openvino; run pip install 'vitkit[export]'"
        ) from None
    # The default on CPUs with bfloat16 is bfloat16.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    except RuntimeError as error:
        raise CheckpointError(f"{path.name} is not a model that OpenVINO can compile ({_reason(error)})") from None
    if len(compiled.inputs) != 1 or len(compiled.outputs) != len(outputs):
        raise CheckpointError(f"{path.name} has {len(compiled.outputs)} outputs; expected the outputs {list(outputs)}")
    positions = {name: index for index, name in enumerate(outputs)}

    def run(images: np.ndarray, wanted: Sequence[str]) -> list[np.ndarray]:
        # One request per call: several threads may share the model.
        values = compiled.create_infer_request().infer([images])
        return [np.array(values[positions[name]]) for name in wanted]

    return run


def _reason(error: RuntimeError) -> str:
    """Returns the last line of an OpenVINO error message that is not a source position."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "Exception from" not in line]
    return lines[-1][:200] if lines else "no reason given"
