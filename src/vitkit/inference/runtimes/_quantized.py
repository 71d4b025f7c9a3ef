"""Quantizes ONNX models to 8 bits with calibration images, and compares the outputs with the original outputs."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitkit.inference.engine.path import BOUNDS, difference, outputs
from vitkit.models import Backbone

#: Images per batch of the calibration.
BATCH = 8
#: Smallest fraction of the calibration images with the same predicted class; one image may always differ.
AGREEMENT = 0.9
#: Largest root mean square difference of logits and representations, relative to their standard deviation.
DIFFERENCE = BOUNDS["int8"]
#: Operators with 8-bit weights. Products of two activations (in attention) stay in float32.
OPERATORS = ("MatMul", "Gemm", "Conv")


def quantize(source: Path, target: Path, images: Float[Tensor, "b c height width"]) -> None:
    """Quantizes an ONNX model: weights per channel, and activations with ranges measured on `images`.

    The weights have 7 bits, because the 8-bit products of older CPUs saturate at 16 bits.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, _quiet():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(target),
            _reader(images),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            nodes_to_exclude=_without_weights(prepared),
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )


def _without_weights(path: Path) -> list[str]:
    """Returns the names of matrix products without a 2-D weight, such as products of two activations."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    return [node.name for node in products if not matrices & set(node.input)]


def _reader(images: Tensor) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    batches = iter(images.split(BATCH))

    class Reader(CalibrationDataReader):
        """Yields the calibration images in batches."""

        def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
            """Returns the next batch, or None at the end."""
            batch = next(batches, None)
            return None if batch is None else {"images": batch.numpy()}

    return Reader()


def compare(model: Backbone, exported: Backbone, images: Float[Tensor, "b c height width"]) -> tuple[float, float]:
    """Returns the largest relative difference of the outputs, and the fraction of images with equal predicted classes.

    The difference is that of the inference engine (`engine.path.difference`); the fraction is 1 for a model without
    classes.
    """
    largest, equal = 0.0, 0
    for batch in images.split(BATCH):
        exact, quantized = outputs(model, batch), outputs(exported, batch)
        largest = max(largest, difference(exact, quantized))
        equal += int((exact[0].argmax(dim=1) == quantized[0].argmax(dim=1)).sum())
    return largest, equal / images.shape[0] if model.config.num_classes else 1.0


def differs(off: float, agreement: float, number: int) -> str:
    """Returns the reason if the outputs of a quantized model differ too much on `number` images, otherwise ""."""
    if not off <= DIFFERENCE:
        return f"its outputs differ by {off:.1%} of their standard deviation, the limit is {DIFFERENCE:.0%}"
    if round((1 - agreement) * number) > max(1, (1 - AGREEMENT) * number):
        return f"it predicts the same class for {agreement:.0%} of the calibration images, the limit is {AGREEMENT:.0%}"
    return ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Context manager that suppresses printed output, logs and warnings of the quantizer."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.inference_mode():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.setLevel(level)
