"""OpenVINO on the CPU, converted from torch; int8 by NNCF's post-training quantisation with its transformer preset."""

from pathlib import Path
from typing import Any

import numpy as np

from vitkit.bench import Contender, Job, Prepared

NEEDS = ("openvino", "nncf")
HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}
CALIBRATED_ON = 32


def precisions(kind: str, device: str) -> tuple[str, ...]:
    """Three on a CPU, none elsewhere: it has no device for NVIDIA's GPUs."""
    return tuple(HINTS) if device == "cpu" else ()


def make(job: Job, contender: Contender) -> None:
    """Converts the network with the batch as its shape, and quantises it where int8 is asked for."""
    import openvino
    import torch

    from vitkit import load

    graph = _graph(job, contender)
    if graph.exists():
        return
    graph.parent.mkdir(parents=True, exist_ok=True)
    model = load(f"{job.folder}/vitkit").model.eval()
    example = torch.zeros(job.batch, 3, *job.image_size)
    with torch.inference_mode():
        converted: Any = openvino.convert_model(model, example_input=example, input=list(example.shape))
    if contender.precision == "int8":
        converted = _quantised(converted, job)
    openvino.save_model(converted, graph, compress_to_fp16=False)


def inference(job: Job, contender: Contender) -> Prepared:
    """One synchronous request at a time on all threads: the hint `latency`, or `hint=throughput`."""
    import openvino

    from vitkit.bench import torch_network

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": HINTS[contender.precision],
        "INFERENCE_NUM_THREADS": job.threads,
        "PERFORMANCE_HINT": contender.setting("hint", "latency").upper(),
    }
    if contender.precision != "float32" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    network: Any = core.compile_model(core.read_model(_graph(job, contender)), "CPU", settings)
    batch = torch_network.pictures(job)

    def run() -> np.ndarray:
        return network([batch])[0]

    notes = {"precision hint": str(settings["INFERENCE_PRECISION_HINT"]), "hint": str(settings["PERFORMANCE_HINT"])}
    return Prepared(run=run, items=job.batch, outputs=run().copy(), notes=notes)


def _quantised(network: Any, job: Job) -> Any:
    import nncf  # pyright: ignore[reportMissingImports]

    generator = np.random.default_rng(2)
    size = (job.batch, 3, *job.image_size)
    count = max(1, CALIBRATED_ON // job.batch)
    batches = [generator.standard_normal(size, dtype=np.float32) for _ in range(count)]
    return nncf.quantize(
        network,
        nncf.Dataset(batches),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=count,
        fast_bias_correction=True,
    )


def _graph(job: Job, contender: Contender) -> Path:
    kind = "int8" if contender.precision == "int8" else "float"
    return Path(job.folder) / "openvino" / f"{kind}-{job.batch}.xml"
