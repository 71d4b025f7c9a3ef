"""ONNX (opset 20), by torch's exporter, checked by onnx.checker."""

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitkit.export.trace import Traced

TOLERANCES = {"float32": 1e-4}
#: A protobuf message ends at 2 GB: the weights of larger models lie beside it.
_LARGEST = 1_800_000_000


def write(traced: Traced, path: Path, precision: str) -> None:
    """Writes the graph, with its weights in it or, for the largest models, in a file beside it."""
    try:
        import onnx
        import onnxscript  # noqa: F401 - what torch's exporter is written in
    except ImportError:
        raise ImportError("exporting to ONNX needs onnx and onnxscript: pip install 'vitkit[export]'") from None
    with _quiet():
        program: Any = torch.onnx.export(
            traced.program,
            input_names=["images"],
            output_names=list(traced.outputs),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    _forget(program.model)
    _keep_zero_padding(program.model.graph)
    size = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())
    program.save(str(path), external_data=size > _LARGEST)
    onnx.checker.check_model(str(path), full_check=True)


@contextlib.contextmanager
def _quiet() -> Any:
    """Without the exporter's chatter: it prints, logs and warns of its own insides."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _forget(model: Any) -> None:
    """Takes out what the exporter notes of Python's frames: the paths of this machine's files."""
    graph = model.graph
    for holder in [model, graph, *graph.all_nodes(), *graph.inputs, *graph.outputs, *graph.initializers.values()]:
        holder.metadata_props.clear()
    for node in graph.all_nodes():
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()


def _keep_zero_padding(graph: Any) -> None:
    """Pads before a max-pool with a number next to zero in place of zero.

    ONNX Runtime (1.31) folds a padding of exactly zero into the pool, which then pads with minus infinity: BiT's
    answers were 2.5e-3 off. A float32 maximum with 1e-30 is one with 0 wherever it matters.
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
