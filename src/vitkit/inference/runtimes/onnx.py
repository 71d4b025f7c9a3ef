"""Exports models to ONNX (opset 20) with torch.onnx.export, and runs them with ONNX Runtime on the CPU."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitkit.checkpoints import CheckpointError
from vitkit.inference.runtimes import _quantized
from vitkit.inference.runtimes._exported import Runner
from vitkit.inference.runtimes._trace import Traced

FILE = "model.onnx"
# int8 is checked on the calibration images instead (`_quantized`).
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "int8": _quantized.DIFFERENCE}
# float16 models have inputs and outputs in float32.
DTYPES = {"float16": torch.float16}
DYNAMIC_SIZE = True
#: Protobuf messages are limited to 2 GB: larger models store their weights in a separate file.
_LARGEST = 1_800_000_000


def write(traced: Traced, path: Path, precision: str) -> None:
    """Writes and validates the ONNX graph. The weights of very large models are written to a separate file."""
    try:
        import onnx
        import onnxscript  # noqa: F401 - used by torch's exporter
    except ImportError:
        raise ImportError(
            "exporting to ONNX needs the packages onnx and onnxscript; run pip install 'vitkit[export]'"
        ) from None
    with _quiet():
        program: Any = torch.onnx.export(
            traced.program,
            input_names=["images"],
            output_names=list(traced.outputs),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    _remove_metadata(program.model)
    _fix_zero_padding(program.model.graph)
    size = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())
    program.save(str(path), external_data=size > _LARGEST)
    onnx.checker.check_model(str(path), full_check=True)


def quantize(source: Path, target: Path, images: Float[Tensor, "b c height width"]) -> None:
    """Quantizes an ONNX model to 8 bits with calibration images."""
    import onnx

    _quantized.quantize(source, target, images)
    onnx.checker.check_model(str(target), full_check=True)


def open_file(path: Path, outputs: Sequence[str]) -> Runner:
    """Loads an ONNX model that runs on as many threads as torch. Raises CheckpointError if the file is invalid."""
    try:
        import onnxruntime
    except ImportError:
        raise ImportError(
            "running a model exported to ONNX needs the package onnxruntime; run pip install 'vitkit[export]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception:
        # ONNX Runtime has a dozen exception types, whose messages have local paths.
        raise CheckpointError(f"{path.name} is not a model that ONNX Runtime can load") from None
    names = [output.name for output in session.get_outputs()]
    inputs = [entry.name for entry in session.get_inputs()]
    if inputs != ["images"] or not set(outputs) <= set(names):
        raise CheckpointError(
            f"{path.name} has inputs {inputs} and outputs {names}; expected the input images and the outputs "
            f"{list(outputs)}"
        )

    def run(images: np.ndarray, wanted: Sequence[str]) -> list[np.ndarray]:
        return [np.asarray(value) for value in session.run(list(wanted), {"images": images})]

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Context manager that suppresses printed output, logs and warnings of the exporter."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _remove_metadata(model: Any) -> None:
    """Removes metadata of Python stack frames, which contains local file paths."""
    graph = model.graph
    for item in [model, graph, *graph.all_nodes(), *graph.inputs, *graph.outputs, *graph.initializers.values()]:
        item.metadata_props.clear()
    for node in graph.all_nodes():
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()


def _fix_zero_padding(graph: Any) -> None:
    """Changes the zero padding before a max-pool to 1e-30, so that ONNX Runtime does not pad with minus infinity.

    ONNX Runtime (1.31) folds zero padding into the pool, which then pads with minus infinity and changes BiT's outputs
    by 2.5e-3. The difference between 1e-30 and 0 is negligible.
    """
    import onnx_ir

    for node in list(graph):
        users = [use.node.op_type for use in node.outputs[0].uses()]
        if node.op_type == "Pad" and "MaxPool" in users and len(node.inputs) > 2:
            tiny = onnx_ir.Value(
                name=f"{node.outputs[0].name}_near_zero",
                const_value=onnx_ir.tensor(np.array(1e-30, np.float32)),
                type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT),
                shape=onnx_ir.Shape([]),
            )
            graph.register_initializer(tiny)
            node.replace_input_with(2, tiny)
