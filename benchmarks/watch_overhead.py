"""CPU time that the detection of changes (`inference.engine.watch`) adds to a forward pass of a fast copy.

Runs the copy with and without the check in alternation on one thread, and prints medians of its CPU time, which other
processes hardly change: `python benchmarks/watch_overhead.py [MODEL] [ROUNDS]`. With `shared` as third argument a state
dict refers to all weights, which are then compared with a private copy.
"""

import statistics
import sys
import time

import torch

from vitkit import models
from vitkit.inference import engine
from vitkit.inference.engine.watch import Watch, irregularity


def seconds(function: object) -> float:
    """Returns the CPU time of one call in this thread, in seconds."""
    assert callable(function)
    start = time.thread_time()
    function()
    return time.thread_time() - start


def main(name: str = "vit-b/16", rounds: str = "40", *options: str) -> None:
    """Prints the time of a forward pass of one image with and without the check, and of the check alone."""
    torch.set_num_threads(1)
    model = models.build(models.preset(name)).eval()
    torch.nn.init.normal_(model.get_parameter("head.weight"), std=0.02)
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
    print(f"{name}, batch 1, {made.precision}, {len(held)} tensors shared")
    print(", ".join(f"{key} {value:.2f} ms" for key, value in milliseconds.items()))
    print(f"check / forward pass: {milliseconds['check'] / milliseconds['without']:.2%}")
    prepared = {"preparing the check": lambda: Watch(model), "the rules for copies": lambda: irregularity(model)}
    print(", ".join(f"{key} {1e3 * seconds(function):.1f} ms" for key, function in prepared.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
