"""The engine and the exports of models with other channels than RGB."""

from pathlib import Path

import numpy as np
import pytest
import torch
from band_files import tiff
from slow_cases import slow_except

import vitkit
from vitkit import checkpoints, models
from vitkit.data.processor import Processor
from vitkit.inference import Predictor, runtimes
from vitkit.inference.engine.capabilities import capabilities

CPU = capabilities(torch.device("cpu"))


def checkpoint(family: str, channels: int) -> checkpoints.Checkpoint:
    """An adapted RGB model without zero parameters."""
    torch.manual_seed(0)
    model = models.build(models.family(family).TINY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.adapt_channels(channels)
    processor = Processor.squash(model.config.image_size).with_channels(channels)
    labels = tuple(f"class {index}" for index in range(model.config.num_classes))
    return checkpoints.Checkpoint(model=model, processor=processor, labels=labels)


def tiles(channels: int, folder: Path) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = [folder / f"{index}.tif" for index in range(3)]
    for path in paths:
        path.write_bytes(tiff(generator.integers(0, 256, (40, 36, channels), dtype=np.uint8)))
    return paths


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(("family", "channels"), [("vit", 5), ("vit", 2), ("hybrid", 4)])
def test_the_engine_runs_other_channels(family: str, channels: int, precision: str, tmp_path: Path) -> None:
    if precision == "int8" and not CPU.int8:
        pytest.skip("needs a CPU with exact 8-bit products (AVX-512 VNNI)")
    made, paths = checkpoint(family, channels), tiles(channels, tmp_path)
    with torch.inference_mode():
        expected = made.model(made.processor(paths)).numpy()
    found = list(Predictor(made.model, made.processor, precision=precision).logits(paths))
    assert all(outcome.error is None for outcome in found)
    given = np.stack([outcome.output for outcome in found if outcome.output is not None])
    np.testing.assert_allclose(given, expected, atol={"float32": 1e-4}.get(precision, 0.05))


@pytest.mark.parametrize("target", slow_except(runtimes.targets(), "program"))
def test_exports_of_other_channels_match(target: str, tmp_path: Path) -> None:
    libraries = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}
    for library in libraries.get(target, ()):
        pytest.importorskip(library, reason=f"exporting to {target} needs {library}: pip install 'vitkit[export]'")
    made, paths = checkpoint("vit", 4), tiles(4, tmp_path)
    runtimes.export(made, tmp_path / "out", to=target)
    opened = vitkit.load(tmp_path / "out")
    assert opened.processor == made.processor
    with torch.inference_mode():
        expected = made.model(made.processor(paths)).softmax(dim=-1).numpy()
    for (_, predictions), row in zip(opened.classify(paths), expected, strict=True):
        scores = {prediction.index: prediction.score for prediction in predictions}
        np.testing.assert_allclose([scores[index] for index in range(5)], row, atol=1e-4)
