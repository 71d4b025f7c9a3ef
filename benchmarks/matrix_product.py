"""Measures the rates of a square matrix product and of a copy, the limits of a device.

    python benchmarks/matrix_product.py --device cuda --size 8192 --precision bfloat16

Prints one line of JSON: TFLOP/s (2 n^3 operations) and GB/s (bytes read and written), medians of the repeats.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

REPEATS = 15


def main() -> None:
    """Measures and prints one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--precision", default="bfloat16")
    options = parser.parse_args()
    device, dtype, size = torch.device(options.device), getattr(torch, options.precision), options.size
    torch.manual_seed(0)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    seconds = median_seconds(device, lambda: torch.mm(left, right, out=product))
    # Four times the size of the product, so that the copy does not fit in a cache.
    source = torch.randn(4 * size, size, device=device).to(dtype)
    target = torch.empty_like(source)
    copying = median_seconds(device, lambda: target.copy_(source))
    moved = 2 * source.numel() * source.element_size()
    found = {"size": size, "precision": options.precision, "tflops": 2 * size**3 / seconds / 1e12}
    print(json.dumps({**found, "copy_gb_per_second": moved / copying / 1e9}))


def median_seconds(device: torch.device, run: Callable[[], object]) -> float:
    """Returns the median time of a call after three warm-up calls, measured by CUDA events on a GPU."""
    times = []
    for repeat in range(3 + REPEATS):
        if device.type == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            run()
            end.record()
            torch.cuda.synchronize(device)
            spent = begin.elapsed_time(end) / 1e3
        else:
            start = time.perf_counter()
            run()
            spent = time.perf_counter() - start
        if repeat >= 3:
            times.append(spent)
    return statistics.median(times)


if __name__ == "__main__":
    main()
