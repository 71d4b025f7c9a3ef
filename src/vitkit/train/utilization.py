"""How much of what the machine could do the training does: model FLOPs utilisation (Chowdhery et al. 2022, PaLM,
appendix B), the arithmetic of a step over the time it took and the machine's rate of matrix products.
"""

import re
import time
from dataclasses import dataclass
from functools import cache

import torch

#: Published dense rates in TFLOP/s: bfloat16 and float16 products, tf32, float32; the first name found in a GPU's wins.
#: 0 is for what a GPU cannot do.
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
LONGEST = 0.1  # seconds of measuring


@dataclass(frozen=True)
class Peak:
    """The operations a second that products of a precision reach on one device, and how that is known."""

    rate: float
    source: str

    def share(self, flops: float, seconds: float) -> float:
        """The utilisation of a device that did so many operations in that time."""
        return flops / seconds / self.rate


def peak(device: torch.device, precision: str, *, tf32: bool = False) -> Peak:
    """That of this process's device: from the table where its GPU is known, else measured once by a short product."""
    kind = "tf32" if precision == "float32" and tf32 and device.type == "cuda" else precision
    if device.type == "cuda":
        found = published(torch.cuda.get_device_name(device), kind)
        if found is not None:
            return found
    return measured(device, precision, torch.get_num_threads())


def published(name: str, kind: str) -> Peak | None:
    """The rate of a GPU by its name, None for one that is not in the table or cannot do this."""
    for known, rates in PEAKS.items():
        rate = rates[KINDS.index(kind)]
        if re.search(rf"\b{known}\b", name) and rate:
            return Peak(rate * 1e12, f"published: {known}, dense {kind}")
    return None


@cache
def measured(device: torch.device, precision: str, threads: int) -> Peak:
    """The best of some square products within a tenth of a second (and at least two), on torch's `threads`."""
    side = 4096 if device.type == "cuda" else 512
    matrix = torch.full((side, side), 0.5, device=device, dtype=getattr(torch, precision))
    out, best, spent, rounds = torch.empty_like(matrix), float("inf"), 0.0, 0
    while rounds < 3 or spent < LONGEST:
        start = time.perf_counter()
        torch.mm(matrix, matrix, out=out)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        seconds = max(time.perf_counter() - start, 1e-9)
        best, spent, rounds = min(best, seconds), spent + seconds, rounds + 1
    return Peak(2 * side**3 / best, f"measured: a {precision} product of {side} x {side}, {threads} threads")
