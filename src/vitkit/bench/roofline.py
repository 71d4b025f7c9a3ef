"""The measured limit: how fast this machine does nothing but a ViT's four matrix products, with weights packed once.

A contender like the others, in the same race, so that a busy minute falls on it too. One call does the products of one
block (query-key-value, projection, and the two of the MLP) for all tokens of a batch; its items are floating-point
operations, a multiplication and an addition counted as two. Attention, norms and activations are not in it, so no
network reaches it: the share of it that a contender reaches says how much of the machine it uses.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.bench import Contender, Job, Prepared
from vitkit.inference.engine.capabilities import can_pack

PRODUCTS = ("float32", "bfloat16", "float16", "int8", "float8")
COPY = "copy"
COPIED_BYTES = 256 * 2**20


def inference(job: Job, contender: Contender) -> Prepared:
    """The products of one block in the contender's precision; with `copy`, a copy of 256 MiB, its items bytes moved."""
    torch.set_num_threads(job.threads)
    device = torch.device(job.device)
    with torch.inference_mode():
        if contender.precision == COPY:
            return _copy(device)
        calls, how = _products(job, contender.precision, device)

    def run() -> None:
        with torch.inference_mode():
            for call in calls:
                call()
            synchronise(device)

    return Prepared(run=run, items=float(sum(2 * m * k * n for m, k, n in shapes(job))), notes={"products": how})


# A step of training is made of the same products, in three passes: forward, and two backward.
training = inference


def shapes(job: Job) -> list[tuple[int, int, int]]:
    """(rows, inner, columns) of the products of one block for a batch."""
    rows, width, mlp = job.batch * job.shape["tokens"], job.shape["width"], job.shape["mlp_width"]
    return [(rows, width, 3 * width), (rows, width, width), (rows, width, mlp), (rows, mlp, width)]


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type != "cpu":
        torch.accelerator.synchronize(device)


def _products(job: Job, precision: str, device: torch.device) -> tuple[list[Callable[[], Any]], str]:
    """The fastest way of those there are, by a short trial, and its name."""
    ways: dict[str, list[Callable[[], Any]]] = {}
    for name, make in _ways(precision, device).items():
        ways[name] = [make(*shape, device) for shape in shapes(job)]
    times = {name: _time(calls, device) for name, calls in ways.items()}
    best = min(times, key=lambda name: times[name])
    return ways[best], best


def _time(calls: list[Callable[[], Any]], device: torch.device) -> float:
    best = float("inf")
    for _ in range(4):
        begin = time.perf_counter()
        for call in calls:
            call()
        synchronise(device)
        best = min(best, time.perf_counter() - begin)
    return best


def _ways(precision: str, device: torch.device) -> dict[str, Callable[..., Callable[[], Any]]]:
    if precision == "int8":
        return {"onednn int8 packed": _packed_int8} if device.type == "cpu" else {"torch._int_mm": _int8}
    if precision == "float8":
        return {"torch scaled_mm": _float8}
    dtype = getattr(torch, precision)
    ways: dict[str, Callable[..., Callable[[], Any]]] = {"linear": partial(_linear, dtype=dtype)}
    if device.type != "cpu":
        return ways
    if can_pack(dtype):
        ways["onednn packed"] = partial(_packed, dtype=dtype)
    elif can_pack(torch.float32):
        # As the engine does where oneDNN cannot pack this type (`engine.dense`).
        ways["onednn packed in float32"] = partial(_packed, dtype=torch.float32)
    return ways


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
            "the limit of int8 on a CPU is measured with oneDNN's packed products, which only x86 CPUs have"
        )
    x = torch.randint(0, 255, (rows, inner), dtype=torch.uint8)
    weight = torch.randint(-127, 127, (columns, inner), dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weight, [rows, inner])
    scales, zeros = torch.full((columns,), 0.01), torch.zeros(columns, dtype=torch.int32)
    out = (1.0, 0, torch.bfloat16 if can_pack(torch.bfloat16) else torch.float32, "none", [], "")
    return lambda: torch.ops.onednn.qlinear_pointwise(x, 0.02, 128, packed, scales, zeros, None, *out)


def _int8(rows: int, inner: int, columns: int, device: torch.device) -> Callable[[], Tensor]:
    rows = -(-rows // 32) * 32  # cuBLAS takes whole tiles only
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
        synchronise(device)

    return Prepared(run=run, items=2.0 * COPIED_BYTES, notes={"moves": "one byte read, one written"})


def data(job: Job, contender: Contender) -> Prepared:
    """Decoding alone: JPEG files to RGB pixels at full size with Pillow, no resizing, no numbers."""
    from PIL import Image

    def run() -> None:
        for name in job.photos:
            with Image.open(name) as picture:
                picture.convert("RGB").load()

    return Prepared(run=run, items=len(job.photos), notes={"decodes": "Pillow, full size"})
