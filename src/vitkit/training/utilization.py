"""Model FLOPs utilization (MFU): FLOP/s in training, divided by the peak FLOP/s of the device.

Chowdhery et al. 2022 (PaLM), appendix B.
"""

import re
import time
from dataclasses import dataclass
from functools import cache

import torch

#: Published dense peaks in TFLOP/s for bfloat16, float16, tf32 and float32, 0 if unsupported. The first name that a
#: GPU's name contains is used.
PEAKS: dict[str, tuple[float, float, float, float]] = {
    "B200": (2250.0, 2250.0, 1125.0, 75.0),
    "GH200": (989.4, 989.4, 494.7, 66.9),
    "H200": (989.4, 989.4, 494.7, 66.9),
    "H100 PCIe": (756.0, 756.0, 378.0, 51.2),
    "H100 NVL": (835.0, 835.0, 417.5, 60.0),
    "H100": (989.4, 989.4, 494.7, 66.9),
    "A100": (312.0, 312.0, 156.0, 19.5),
    "A10": (125.0, 125.0, 62.5, 31.2),
    "L40S": (362.1, 362.1, 183.0, 91.6),
    "L4": (121.0, 121.0, 60.0, 30.3),
    "V100": (0.0, 125.0, 0.0, 15.7),
    "T4": (0.0, 65.0, 0.0, 8.1),
}
KINDS = ("bfloat16", "float16", "tf32", "float32")
MEASURING_SECONDS = 0.1


@dataclass(frozen=True)
class Peak:
    """Peak FLOP/s of matrix products on one device, and the source of this number."""

    flops_per_second: float
    source: str

    def utilization(self, flops: float, seconds: float) -> float:
        """Returns `flops / seconds` as a fraction of the peak FLOP/s."""
        return flops / seconds / self.flops_per_second


def peak(device: torch.device, precision: str, *, tf32: bool = False) -> Peak:
    """Returns the peak FLOP/s of a device: the published number for known GPUs, otherwise a measured number."""
    kind = "tf32" if precision == "float32" and tf32 and device.type == "cuda" else precision
    if device.type == "cuda":
        found = published(torch.cuda.get_device_name(device), kind)
        if found is not None:
            return found
    return measured(device, precision, torch.get_num_threads())


def published(name: str, kind: str) -> Peak | None:
    """Returns the published peak FLOP/s of a GPU, or None if the GPU or dtype is not in the table."""
    for known, peaks in PEAKS.items():
        teraflops = peaks[KINDS.index(kind)]
        if re.search(rf"\b{known}\b", name) and teraflops:
            return Peak(teraflops * 1e12, f"published: {known}, dense {kind}")
    return None


@cache
def measured(device: torch.device, precision: str, threads: int) -> Peak:
    """Measures the FLOP/s of a square matrix product on a device, as the fastest of several repetitions.

    The result is cached by device, precision and `threads`.
    """
    side = 4096 if device.type == "cuda" else 512
    matrix = torch.full((side, side), 0.5, device=device, dtype=getattr(torch, precision))
    out, best, spent, rounds = torch.empty_like(matrix), float("inf"), 0.0, 0
    while rounds < 3 or spent < MEASURING_SECONDS:
        start = time.perf_counter()
        torch.mm(matrix, matrix, out=out)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        seconds = max(time.perf_counter() - start, 1e-9)
        best, spent, rounds = min(best, seconds), spent + seconds, rounds + 1
    return Peak(2 * side**3 / best, f"measured: {precision} matrix product of {side} x {side}, {threads} threads")
