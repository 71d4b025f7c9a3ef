"""OpenVINO models (an .xml with a .bin beside it), run on the CPU."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vitkit.checkpoints import CheckpointError
from vitkit.inference.runtimes._exported import Runner
from vitkit.inference.runtimes._trace import Traced

FILE = "model.xml"


def open_file(path: Path, outputs: Sequence[str]) -> Runner:
    """The model, in float32 arithmetic with torch's number of threads; CheckpointError where OpenVINO refuses it."""
    try:
        import openvino
    except ImportError:
        raise ImportError("a model exported to OpenVINO needs OpenVINO: pip install 'vitkit[export]'") from None
    # On processors with bfloat16 it would compute in that unless told not to.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    except RuntimeError as error:
        raise CheckpointError(f"{path.name} is no model that OpenVINO compiles ({_reason(error)})") from None
    if len(compiled.inputs) != 1 or len(compiled.outputs) != len(outputs):
        raise CheckpointError(f"{path.name} makes {len(compiled.outputs)} outputs, not {list(outputs)}")
    places = {name: index for index, name in enumerate(outputs)}

    def run(images: np.ndarray, wanted: Sequence[str]) -> list[np.ndarray]:
        # One request for each call: predictors in several threads may share the model.
        answers = compiled.create_infer_request().infer([images])
        return [np.array(answers[places[name]]) for name in wanted]

    return run


def _reason(error: RuntimeError) -> str:
    """The last line that is a sentence; the others say where in OpenVINO's own sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "Exception from" not in line]
    return lines[-1][:200] if lines else "no reason given"


# float16 halves the size of the weights; the computation is in float32.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2}


def write(traced: Traced, path: Path, precision: str) -> None:
    """Converts the torch.export program directly (not through ONNX) and writes both files."""
    try:
        import openvino
    except ImportError:
        raise ImportError("exporting to OpenVINO needs openvino: pip install 'vitkit[export]'") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = openvino.convert_model(traced.program)
    model.inputs[0].get_tensor().set_names({"images"})
    for output, name in zip(model.outputs, traced.outputs, strict=True):
        output.get_tensor().set_names({name})
    openvino.save_model(model, str(path), compress_to_fp16=precision == "float16")
