"""OpenVINO on a CPU, with a model converted from PyTorch. int8 uses NNCF with the preset for transformers."""

from pathlib import Path
from typing import Any

import numpy as np

from vitkit.bench import Candidate, Job, Prepared

NEEDS = ("openvino", "nncf")
HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}
CALIBRATION_IMAGES = 32


def precisions(kind: str, device: str) -> tuple[str, ...]:
    """Returns the supported precisions on a CPU. There are none on a GPU, because NVIDIA GPUs are not supported."""
    return tuple(HINTS) if device == "cpu" else ()


def make(job: Job, candidate: Candidate) -> None:
    """Converts the model of a job for its batch size. For int8, the model is quantized."""
    import openvino
    import torch

    from vitkit import load

    graph = _graph(job, candidate)
    if graph.exists():
        return
    graph.parent.mkdir(parents=True, exist_ok=True)
    model = load(f"{job.folder}/vitkit").model.eval()
    example = torch.zeros(job.batch, 3, *job.image_size)
    with torch.inference_mode():
        converted: Any = openvino.convert_model(model, example_input=example, input=list(example.shape))
    if candidate.precision == "int8":
        converted = _quantize(converted, job)
    openvino.save_model(converted, graph, compress_to_fp16=False)


def inference(job: Job, candidate: Candidate) -> Prepared:
    """Returns a prepared candidate that runs synchronous requests. The setting `hint` is `latency` or `throughput`."""
    import openvino

    from vitkit.bench import torch_network

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": HINTS[candidate.precision],
        "INFERENCE_NUM_THREADS": job.threads,
        "PERFORMANCE_HINT": candidate.setting("hint", "latency").upper(),
    }
    if candidate.precision != "float32" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    network: Any = core.compile_model(core.read_model(_graph(job, candidate)), "CPU", settings)
    batch = torch_network.images(job)

    def run() -> np.ndarray:
        return network([batch])[0]

    notes = {"precision hint": str(settings["INFERENCE_PRECISION_HINT"]), "hint": str(settings["PERFORMANCE_HINT"])}
    return Prepared(run=run, items=job.batch, outputs=run().copy(), notes=notes)


def _quantize(network: Any, job: Job) -> Any:
    import nncf  # pyright: ignore[reportMissingImports]

    generator = np.random.default_rng(2)
    size = (job.batch, 3, *job.image_size)
    count = max(1, CALIBRATION_IMAGES // job.batch)
    batches = [generator.standard_normal(size, dtype=np.float32) for _ in range(count)]
    return nncf.quantize(
        network,
        nncf.Dataset(batches),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=count,
        fast_bias_correction=True,
    )


def _graph(job: Job, candidate: Candidate) -> Path:
    kind = "int8" if candidate.precision == "int8" else "float"
    return Path(job.folder) / "openvino" / f"{kind}-{job.batch}.xml"
