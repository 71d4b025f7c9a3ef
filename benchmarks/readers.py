"""Measures how long hostile and unusual files take to read, and how much memory, in one or two versions of vitkit.

    python benchmarks/readers.py --before ../old-checkout/src --out benchmarks

The image files are those of `tests/costly_files.py` and `tests/unusual_files.py`. The checkpoint files are those of
`tests/checkpoints/hostile_pickles.py`, and configs with enormous values. Each file is read by a separate process, with
a limit of 30 CPU seconds. The process reads a small file of the same kind first, and the figures are those of the
second file: CPU seconds, and the increase of peak memory. Writes `readers_<hardware>_<date>.md`. Needs Linux.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT = 30  # CPU seconds for one file
MESSAGE = 60  # characters of a message in the table

# Reads a small file and then the file to measure. It runs with each version of vitkit, so it uses few functions.
CHILD = """
import json, os, resource, sys, warnings

def memory(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) / 1024

kind, small, path, limit = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
if kind == "image":
    from vitkit.images import open_image as read
else:
    from vitkit.checkpoints import load as read
read(small)
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # reset the peak
used, before = resource.getrusage(resource.RUSAGE_SELF), memory("VmRSS")
start = used.ru_utime + used.ru_stime
resource.setrlimit(resource.RLIMIT_CPU, (int(start) + limit, int(start) + limit))
try:
    read(path)
    result = "read"
except Exception as error:
    known = isinstance(error, ValueError)
    result = f"{'' if known else type(error).__name__ + ': '}{' '.join(str(error).split())}"
after = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([result, after.ru_utime + after.ru_stime - start, memory("VmHWM") - before]))
"""


def image_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields the names and paths of image files."""
    from costly_files import costly
    from unusual_files import unusual

    files = {name: make for name, (make, _) in costly().items()}
    for number, (name, make) in enumerate(files.items()):
        path = folder / f"image{number}"
        path.write_bytes(make())
        yield name, path
    for number, (name, file) in enumerate(unusual().items()):
        path = folder / f"unusual{number}"
        path.write_bytes(file.data)
        yield name.replace("_", " "), path


def changed_configs(folder: Path, small: Path) -> Iterator[tuple[str, Path]]:
    """Yields checkpoint folders whose config or preprocessing config states enormous values."""
    from importlib import import_module

    from vitkit import checkpoints, models
    from vitkit.checkpoints.checkpoint import Checkpoint
    from vitkit.data.labels import default_labels
    from vitkit.data.processor import Processor

    model_values = {
        "vit": {"num_registers": 10**20, "pre_logits": 10**20, "channels": 10**20},
        "hybrid": {"depths": [30_000]},
        "dinov3": {"image_size": [10_000, 10_000]},
    }
    for family, values in model_values.items():
        model = models.build(import_module(f"vitkit.models.{family}").TINY)
        labels = default_labels(model.config.num_classes)
        made = Checkpoint(model=model, processor=Processor.squash(32), labels=labels)
        for name, value in values.items():
            target = folder / f"{family}-{name}"
            checkpoints.save(made, target, to="vitkit")
            data = json.loads((target / "config.json").read_text())
            data["model"].pop("task", None)  # not in configs of older versions
            (target / "config.json").write_text(json.dumps(data | {"model": data["model"] | {name: value}}))
            yield f"{family} with {name} {value}", target
    sides = {side: {"height": side, "width": side} for side in (7000, 13_000, 20_000)}
    preprocessing = {
        **{f"crop_size {side}": {"do_center_crop": True, "crop_size": size} for side, size in sides.items()},
        "image_std 1e-300": {"image_std": [1e-300] * 3},
        "400,000 keys": {f"k{index}": 0 for index in range(400_000)},
    }
    for name, changes in preprocessing.items():
        target = folder / f"preprocessing-{name}"
        checkpoints.save(checkpoints.load(small), target)
        file = target / "preprocessor_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        yield f"preprocessor_config.json with {name}", target


def checkpoint_files(folder: Path, small: Path) -> Iterator[tuple[str, Path]]:
    """Yields the names and paths of checkpoint files."""
    import numpy as np
    from hostile_pickles import CORPUS

    for name, make in CORPUS.items():
        (target := folder / name.replace(" ", "-")).mkdir()
        yield name.replace("_", " "), make(target)
    np.save(folder / "cls.npy", np.zeros((1, 1, 8), np.float32))
    with zipfile.ZipFile(folder / "header.npz", "w") as file:
        file.writestr("cls.npy", (folder / "cls.npy").read_bytes().replace(b"(1, 1, 8)", b"(1, 1, 8 "))
    yield "npz header without its bracket", folder / "header.npz"
    yield from changed_configs(folder, small)


def measure(source: Path, kind: str, small: Path, path: Path) -> tuple[str, float | None, float | None]:
    """Reads a file with the version of vitkit in a source folder. Returns the result, CPU seconds and MiB."""
    command = [sys.executable, "-c", CHILD, kind, str(small), str(path), str(LIMIT)]
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=2 * LIMIT)
    except subprocess.TimeoutExpired:
        return "waits", None, None
    if done.returncode:
        return f"killed after {LIMIT} s", None, None
    result, seconds, memory = json.loads(done.stdout.splitlines()[-1])
    return result.replace(str(path), path.name).replace(str(path.parent), ""), seconds, memory


def row(name: str, path: Path, results: list[tuple[str, float | None, float | None]]) -> str:
    """Returns a line of the table."""
    size = sum(each.stat().st_size for each in path.rglob("*")) if path.is_dir() else path.stat().st_size
    cells = [name, f"{size / 1e6:,.3f}"]
    for result, seconds, memory in results:
        text = result if len(result) <= MESSAGE else f"{result[: MESSAGE - 3]}..."
        cells += [
            text.replace("|", "/"),
            "" if seconds is None else f"{seconds:.2f}",
            "" if memory is None else f"{memory:.0f}",
        ]
    return "| " + " | ".join(cells) + " |"


def table(kind: str, small: Path, files: Iterator[tuple[str, Path]], sources: list[Path]) -> list[str]:
    """Measures all files. Returns the lines of the table."""
    names = ["before", "after"] if len(sources) == 2 else [""]
    head = ["file", "MB"] + [f"{column} {name}".strip() for name in names for column in ("result", "CPU s", "MiB")]
    lines = ["| " + " | ".join(head) + " |", "|---|---:|" + "---|---:|---:|" * len(sources)]
    for name, path in files:
        lines.append(row(name, path, [measure(source, kind, small, path) for source in sources]))
        print(lines[-1], flush=True)
    return lines


def small_checkpoint(folder: Path) -> Path:
    """Saves a small Hugging Face checkpoint, whose config files both versions read."""
    from vitkit import checkpoints, models
    from vitkit.checkpoints.checkpoint import Checkpoint
    from vitkit.data.processor import Processor

    model = models.build(models.preset("vit-mu/16", image_size=32, num_classes=3))
    made = Checkpoint(model=model, processor=Processor.squash(32), labels=("a", "b", "c"))
    checkpoints.save(made, folder / "small", to="huggingface")
    return folder / "small"


def main() -> None:
    """Measures both kinds of files, and writes the page."""
    parser = argparse.ArgumentParser(description="Measure the cost of hostile and unusual files.")
    parser.add_argument("--before", type=Path, help="the folder src of an older version to compare with")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks", help="folder for the page")
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "checkpoints")]
    from image_files import jpeg

    from vitkit.bench.machine import describe, short_name

    sources = [*([options.before.resolve()] if options.before else []), ROOT / "src"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "small.jpg").write_bytes(jpeg())
        small = small_checkpoint(folder)
        images = table("image", folder / "small.jpg", image_files(folder), sources)
        weights = table("checkpoint", small, checkpoint_files(folder, small), sources)
    hardware = short_name(describe("cpu"))
    lines = [
        f"# Cost of hostile and unusual files ({hardware}, {date.today()})", "",
        "`python benchmarks/readers.py`: CPU seconds and increase of peak memory of a process that reads the file. The "
        f"limit is {LIMIT} CPU seconds. The result is \"read\", or the start of the error message.",
        "", "## Images", "", *images, "", "## Checkpoints", "", *weights, "",
    ]  # fmt: skip
    (options.out / f"readers_{hardware}_{date.today()}.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
