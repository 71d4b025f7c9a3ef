"""ONNX Runtime, with a graph that torch.onnx exports. int8 is ONNX Runtime's dynamic quantization."""

from pathlib import Path
from typing import Any

from vitkit.bench import Candidate, Job, Prepared

NEEDS = ("onnxruntime", "onnx", "onnxscript")


def precisions(kind: str, device: str) -> tuple[str, ...]:
    """Returns the supported precisions: float32 and int8 on a CPU, float32 and float16 on a GPU."""
    return ("float32", "int8") if device == "cpu" else ("float32", "float16")


def make(job: Job, candidate: Candidate) -> None:
    """Exports the ONNX graph for the batch size of a job. For int8, the graph is quantized."""
    graph = _graph(job, candidate.precision)
    if graph.exists():
        return
    graph.parent.mkdir(parents=True, exist_ok=True)
    if candidate.precision != "int8":
        _export(job, candidate.precision, graph)
        return
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = _graph(job, "float32")
    if not plain.exists():
        _export(job, "float32", plain)
    # The exporter stores shapes under names that the quantizer uses for other tensors.
    exported = onnx.load(plain)
    del exported.graph.value_info[:]
    quantize_dynamic(exported, graph, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])


def _export(job: Job, precision: str, graph: Path) -> None:
    import torch

    from vitkit import load

    dtype = getattr(torch, precision)
    model = load(f"{job.folder}/vitkit").model.eval().to(dtype)
    example = torch.zeros(job.batch, 3, *job.image_size, dtype=dtype)
    with torch.inference_mode():
        torch.onnx.export(model, (example,), graph, dynamo=True, input_names=["images"], output_names=["logits"])


def inference(job: Job, candidate: Candidate) -> Prepared:
    """Returns a prepared candidate that calls `InferenceSession.run` with all graph optimizations enabled."""
    import onnxruntime

    from vitkit.bench import torch_network

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    provider = "CPUExecutionProvider" if job.device == "cpu" else "CUDAExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise ValueError(f"the installed ONNX Runtime has no {provider}; install onnxruntime-gpu")
    session: Any = onnxruntime.InferenceSession(str(_graph(job, candidate.precision)), options, providers=[provider])
    batch = torch_network.images(job)
    inputs = {session.get_inputs()[0].name: batch.astype("float16") if candidate.precision == "float16" else batch}

    def run() -> Any:
        return session.run(None, inputs)[0]

    notes = {"provider": session.get_providers()[0]}
    return Prepared(run=run, items=job.batch, outputs=run(), notes=notes)


def _graph(job: Job, precision: str) -> Path:
    return Path(job.folder) / "onnx" / f"{precision}-{job.batch}.onnx"
