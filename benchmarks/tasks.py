"""Fine-tunes models with several labels per image, and with numbers as targets, from the command line to their scores.

    python benchmarks/tasks.py --out runs/tasks

Handwritten digits (the source `digits`) are composed into images: up to four digits per image, whose labels are the
digits that it shows; and numbers of three digits, whose target is the number. Training and validation images show
different handwriting. A small ViT with random weights is fine-tuned on each by `vitkit finetune`, evaluated by
`vitkit evaluate` and run by `vitkit classify`, also after `vitkit convert` and `vitkit export`. Writes
`tasks_<hardware>_<date>.md` in this folder.
"""

import argparse
import contextlib
import io
import json
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vitkit import checkpoints, models
from vitkit.bench.machine import describe, short_name
from vitkit.cli import main as vitkit
from vitkit.data.processor import Processor
from vitkit.data.sources.digits import Digits
from vitkit.models import vit

GRID, CELL = 3, 8  # cells per side, and pixels of a cell: a digit has 8 x 8 pixels
SIDE = GRID * CELL
MODEL = vit.Config(
    image_size=(SIDE, SIDE), patch_size=(4, 4), width=64, depth=4, num_heads=4, mlp_width=128, init="truncated",
    num_classes=1, activation="gelu",
)  # fmt: skip
Numbers = dict[str, float]  # metrics, minutes and differences by name
# Digits are neither mirrored nor cut. AdamW, because the weights are random.
SETTINGS = (
    "augment.flip=false", "augment.crop.kind=none", "optimizer.name=adamw", "optimizer.weight_decay=0.05",
    "hardware.log_every=50", "precision=float32",
)  # fmt: skip


def handwriting(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels and classes of the digits of a split: every fifth digit is for validation."""
    digits = Digits()
    chosen = np.arange(len(digits)) % 5 == 0
    rows = chosen if split == "val" else ~chosen
    return digits.images[rows], np.asarray(digits.labels)[rows]


def several_labels(
    random: np.random.Generator, images: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Composes up to four digits in different cells; the labels are the digits, an image may have none."""
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    labels = set()
    for cell in random.permutation(GRID * GRID)[: random.integers(0, 5)]:
        digit = int(random.integers(len(images)))
        row, column = cell // GRID * CELL, cell % GRID * CELL
        canvas[row : row + CELL, column : column + CELL] = images[digit]
        labels.add(str(classes[digit]))
    return canvas, sorted(labels)


def number(random: np.random.Generator, images: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, int]:
    """Draws a number of three digits in a random row of cells; the target is the number."""
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    row = int(random.integers(GRID)) * CELL
    chosen = random.integers(len(images), size=GRID)
    canvas[row : row + CELL] = np.concatenate([images[each] for each in chosen], axis=1)
    return canvas, int("".join(str(classes[each]) for each in chosen))


def write_images(folder: Path, kind: str, training: int, validation: int, seed: int = 0) -> str:
    """Writes images with a list in JSON lines and returns the name of the data source."""
    compose = {"labels": several_labels, "number": number}[kind]
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for part, (split, count) in enumerate((("train", training), ("val", validation))):
        random = np.random.default_rng([seed, part])
        digits = handwriting(split)
        for index in range(count):
            pixels, value = compose(random, *digits)
            name = f"{split}-{index}.png"
            Image.fromarray(pixels).convert("RGB").save(folder / name)
            rows.append(json.dumps({"path": name, "label" if kind == "labels" else "number": value, "split": split}))
    (folder / "images.jsonl").write_text("\n".join(rows) + "\n")
    return f"jsonl:{folder / 'images.jsonl'}" + ("" if kind == "labels" else "#target=number")


def write_model(folder: Path) -> None:
    """Saves the model with random weights."""
    torch.manual_seed(0)
    made = checkpoints.Checkpoint(model=models.build(MODEL), processor=Processor.squash(SIDE), labels=("unused",))
    checkpoints.save(made, folder, overwrite=True)


def run(*arguments: str) -> str:
    """Runs a command and returns its standard output. Raises RuntimeError if it fails."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = vitkit(list(arguments))
    if code:
        raise RuntimeError(f"vitkit {' '.join(arguments)} failed with code {code}")
    return output.getvalue()


def finetune(kind: str, out: Path, options: argparse.Namespace) -> Numbers:
    """Fine-tunes a model and returns its metrics and the largest difference of scores between its copies.

    The result of a finished task is read from its file, so that tasks can run in processes of their own.
    """
    result = out / f"{kind}.json"
    if result.exists():
        return json.loads(result.read_text())
    data = write_images(out / f"{kind}-images", kind, options.images, options.images // 4)
    write_model(out / "model")
    tuned = ["--tune-threshold"] if kind == "labels" else []
    start = time.process_time()
    run(
        *("finetune", str(out / "model"), "--data", data, "--out", str(out / kind), "--steps", str(options.steps)),
        *("--batch-size", "64", "--lr", "2e-3", *tuned, "--set", *SETTINGS, f"hardware.threads={options.threads}"),
    )
    minutes = (time.process_time() - start) / 60
    best = out / kind / "best"
    found = json.loads(run("evaluate", str(best), "--data", data, "--json", "--out", str(out / f"{kind}-report")))
    images = [str(path) for path in sorted((out / f"{kind}-images").glob("val-?.png"))]
    expected = scores(best, images)
    differences = {"convert": 0.0, "export": 0.0}
    for to in ("huggingface", "timm", "vitkit"):
        run("convert", str(best), str(out / f"{kind}-{to}"), "--to", to, "--overwrite")
        differences["convert"] = max(differences["convert"], difference(scores(out / f"{kind}-{to}", images), expected))
    for to in options.exports:
        run("export", str(best), "--out", str(out / f"{kind}-{to}"), "--to", to, "--overwrite")
        differences["export"] = max(differences["export"], difference(scores(out / f"{kind}-{to}", images), expected))
    numbers = {**found["metrics"], "minutes": minutes, **differences}
    result.write_text(json.dumps(numbers))
    return numbers


def scores(model: Path, images: list[str]) -> np.ndarray:
    """Returns the scores or values that `vitkit classify` prints, by the index of the output."""
    lines = run("classify", str(model), *images, "--json", "--top", "10", "--precision", "float32").splitlines()
    rows = [sorted(json.loads(line)["predictions"], key=lambda each: each["index"]) for line in lines]
    return np.array([[each.get("score", each.get("value")) for each in row] for row in rows])


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the largest absolute difference."""
    return float(np.abs(one - other).max())


def main() -> None:
    """Fine-tunes the models and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=8000, help="training images of each task")
    parser.add_argument("--steps", type=int, default=2000, help="steps of each fine-tuning")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--exports", nargs="*", default=["onnx", "openvino", "program"])
    parser.add_argument("--tasks", nargs="*", default=["labels", "number"], help="tasks to run; the page needs both")
    options = parser.parse_args()
    found = {kind: finetune(kind, options.out, options) for kind in options.tasks}
    if found.keys() == {"labels", "number"}:
        write_page(found["labels"], found["number"], options)


def write_page(labels: Numbers, values: Numbers, options: argparse.Namespace) -> None:
    """Writes the page of both results and prints it."""
    machine = describe("cpu")
    name, today = short_name(machine), date.today().isoformat()
    command = f"--images {options.images} --steps {options.steps} --threads {options.threads}"
    converted, exported = (max(labels[name], values[name]) for name in ("convert", "export"))
    page = f"""# Fine-tuning with several labels and with numbers ({name}, {today})

`python benchmarks/tasks.py {command}`, float32, torch {torch.__version__.partition("+")[0]}.
A ViT of width {MODEL.width} and depth {MODEL.depth} with random weights; {options.images} training images and
{options.images // 4} validation images of other handwriting.

| task | result on the validation images | CPU minutes |
|---|---|---|
| up to four digits in an image, sigmoid, thresholds tuned | mAP {labels["average_precision.mean"]:.4f}, micro F1 \
{labels["f1.micro"]:.4f}, all labels of an image right {labels["f1.exact"]:.2%} | {labels["minutes"]:.1f} |
| a number of three digits, mean squared error | R2 {values["regression.r2"]:.4f}, mean absolute error \
{values["regression.mae"]:.2f} | {values["minutes"]:.1f} |

The scores and values that `vitkit classify` prints for ten images change by at most {converted:.1e} after `convert` to
huggingface, timm and vitkit, and by at most {exported:.1e} after `export` to {", ".join(options.exports)}.
"""
    path = Path(__file__).parent / f"tasks_{name}_{today}.md"
    path.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
