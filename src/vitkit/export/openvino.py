"""OpenVINO export: an .xml file with the graph and a .bin file with the weights."""

import warnings
from pathlib import Path

from vitkit.export.trace import Traced

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
