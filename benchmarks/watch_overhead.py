"""Time that the detection of changes (`inference.engine.watch`) adds to a forward pass of the fast copy of a model.

Runs the copy with and without the check in alternation, and prints medians: `python benchmarks/watch_overhead.py
[MODEL] [ROUNDS]`. With `shared` as third argument, another state dict refers to all weights, which must then be compared
with a private copy.
"""

import statistics
import sys
import time

import torch

from vitkit import models
from vitkit.inference import engine
from vitkit.inference.engine.watch import Watch, irregularity


def seconds(function: object) -> float:
    """Returns the seconds of one call."""
    assert callable(function)
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main(name: str = "vit-b/16", rounds: str = "40", *options: str) -> None:
    """Prints the time of a forward pass of one image with and without the check, and of the check alone."""
    model = models.build(models.preset(name)).eval()
    torch.nn.init.normal_(model.head.weight, std=0.02)
    held = model.state_dict() if "shared" in options else {}
    made = engine.accelerate(model)
    fast = made.model
    assert isinstance(fast, engine.FastModel), made.summary
    watch, images = fast.watch, torch.randn(1, 3, 224, 224)
    assert watch is not None
    times: dict[str, list[float]] = {"without": [], "with": [], "check": []}
    with torch.inference_mode():
        for _ in range(int(rounds) + 3):
            fast.watch = None
            times["without"].append(seconds(lambda: fast(images)))
            fast.watch = watch
            times["with"].append(seconds(lambda: fast(images)))
            times["check"].append(seconds(watch.changed))
    milliseconds = {key: 1e3 * statistics.median(each[3:]) for key, each in times.items()}
    print(f"{name}, batch 1, {made.precision}, {torch.get_num_threads()} threads, {len(held)} tensors shared")
    print(", ".join(f"{key} {value:.2f} ms" for key, value in milliseconds.items()))
    print(f"check / forward pass: {milliseconds['check'] / milliseconds['without']:.2%}")
    print(f"preparing the check {1e3 * seconds(lambda: Watch(model)):.1f} ms, and the rules {1e3 * seconds(lambda: irregularity(model)):.1f} ms")


if __name__ == "__main__":
    main(*sys.argv[1:])
