"""Measures hardware speed limits with only the four matrix products of a ViT block, or only JPEG decoding.

It is measured as one more candidate in the same rounds. One call computes the products of one block (qkv, projection,
and the two of the MLP) for all tokens of a batch; items are floating-point operations, two per multiply-add. Attention,
norms and activations are not included, so a model reaches a fraction of the limit.
"""

import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.bench import Candidate, Job, Prepared
from vitkit.inference.engine.capabilities import can_pack

PRODUCTS = ("float32", "bfloat16", "float16", "int8", "float8")
COPY = "copy"
COPIED_BYTES = 256 * 2**20


def inference(job: Job, candidate: Candidate) -> Prepared:
    """Returns a prepared candidate that computes the matrix products of a ViT block, or copies 256 MiB (`copy`)."""
    torch.set_num_threads(job.threads)
    device = torch.device(job.device)
    with torch.inference_mode():
        if candidate.precision == COPY:
            return _copy(device)
        calls, method = _products(job, candidate.precision, device)

    def run() -> None:
        with torch.inference_mode():
            for call in calls:
                call()
            synchronize(device)

    return Prepared(run=run, items=float(sum(2 * m * k * n for m, k, n in shapes(job))), notes={"products": method})


# A training step has the same products in three passes, one forward and two backward.
training = inference


def shapes(job: Job) -> list[tuple[int, int, int]]:
    """Returns the sizes (rows, inner, columns) of the four matrix products of one ViT block for a batch."""
    rows, width, mlp = job.batch * job.shape["tokens"], job.shape["width"], job.shape["mlp_width"]
    return [(rows, width, 3 * width), (rows, width, width), (rows, width, mlp), (rows, mlp, width)]


def synchronize(device: torch.device) -> None:
    """Waits until all kernels on the device have finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type != "cpu":
        torch.accelerator.synchronize(device)


def _products(job: Job, precision: str, device: torch.device) -> tuple[list[Callable[[], Tensor]], str]:
    """Times all implementations of the matrix products briefly. Returns the fastest one and its name."""
    candidates: dict[str, list[Callable[[], Tensor]]] = {}
    for name, make in _implementations(precision, device).items():
        candidates[name] = [make(*shape, device) for shape in shapes(job)]
    times = {name: _time(calls, device) for name, calls in candidates.items()}
    best = min(times, key=lambda name: times[name])
    return candidates[best], best


def _time(calls: list[Callable[[], Tensor]], device: torch.device) -> float:
    best = float("inf")
    for _ in range(4):
        begin = time.perf_counter()
        for call in calls:
            call()
        synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return best


def _implementations(precision: str, device: torch.device) -> dict[str, Callable[..., Callable[[], Tensor]]]:
    if precision == "int8":
        return {"onednn int8 packed": _packed_int8} if device.type == "cpu" else {"torch._int_mm": _int8}
    if precision == "float8":
        return {"torch scaled_mm": _float8}
    dtype = getattr(torch, precision)
    found: dict[str, Callable[..., Callable[[], Tensor]]] = {"linear": partial(_linear, dtype=dtype)}
    if device.type != "cpu":
        return found
    if can_pack(dtype):
        found["onednn packed"] = partial(_packed, dtype=dtype)
    elif can_pack(torch.float32):
        # As in the engine if oneDNN cannot pack this dtype (`engine.dense`).
        found["onednn packed in float32"] = partial(_packed, dtype=torch.float32)
    return found


def _linear(rows: int, inner: int, columns: int, device: torch.device, dtype: torch.dtype) -> Callable[[], Tensor]:
    x, weight, bias = _operands(rows, inner, columns, device, dtype)
    return lambda: F.linear(x, weight, bias)


def _float8(rows: int, inner: int, columns: int, device: torch.device) -> Callable[[], Tensor]:
    from vitkit.inference.engine.dense import float8_matmul, to_float8

    x, weight, _ = _operands(rows, inner, columns, device, torch.bfloat16)
    left, right = to_float8(x), to_float8(weight)
    return lambda: float8_matmul(left, right, torch.bfloat16)


def _packed(rows: int, inner: int, columns: int, device: torch.device, dtype: torch.dtype) -> Callable[[], Tensor]:
    x, weight, bias = _operands(rows, inner, columns, device, dtype)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return lambda: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def _packed_int8(rows: int, inner: int, columns: int, device: torch.device) -> Callable[[], Tensor]:
    if not can_pack(torch.float32):
        raise ValueError(
            "measuring the peak int8 throughput needs oneDNN's packed matrix products, which only x86 CPUs support"
        )
    x = torch.randint(0, 255, (rows, inner), dtype=torch.uint8)
    weight = torch.randint(-127, 127, (columns, inner), dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weight, [rows, inner])
    scales, zeros = torch.full((columns,), 0.01), torch.zeros(columns, dtype=torch.int32)
    out = (1.0, 0, torch.bfloat16 if can_pack(torch.bfloat16) else torch.float32, "none", [], "")
    return lambda: torch.ops.onednn.qlinear_pointwise(x, 0.02, 128, packed, scales, zeros, None, *out)


def _int8(rows: int, inner: int, columns: int, device: torch.device) -> Callable[[], Tensor]:
    rows = -(-rows // 32) * 32  # cuBLAS needs complete tiles
    x = torch.randint(-127, 127, (rows, inner), dtype=torch.int8, device=device)
    weight = torch.randint(-127, 127, (columns, inner), dtype=torch.int8, device=device).t()
    return lambda: torch._int_mm(x, weight)  # type: ignore[reportPrivateImportUsage]


def _operands(
    rows: int, inner: int, columns: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(rows, inner, device=device).to(dtype)
    weight = (torch.randn(columns, inner, device=device) * inner**-0.5).to(dtype)
    return x, weight, torch.zeros(columns, device=device, dtype=dtype)


def _copy(device: torch.device) -> Prepared:
    source = torch.ones(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def run() -> None:
        with torch.inference_mode():
            target.copy_(source)
        synchronize(device)

    return Prepared(run=run, items=2.0 * COPIED_BYTES, notes={"bytes": "one read, one written"})


def data(job: Job, candidate: Candidate) -> Prepared:
    """Returns a prepared candidate that decodes JPEG files to RGB pixels with Pillow, without resizing them."""
    from PIL import Image

    def run() -> None:
        for name in job.images:
            with Image.open(name) as image:
                image.convert("RGB").load()

    return Prepared(run=run, items=len(job.images), notes={"decoding": "Pillow, full size"})
