"""Recipe and demo on handwritten digits. The demo shows small images as text in the terminal."""

import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from rich.console import Console

from vitkit.data import Source, train_and_val
from vitkit.data.augment import Augment
from vitkit.data.processor import Processor
from vitkit.inference import Classifier, load
from vitkit.models import vit
from vitkit.objectives import supervised
from vitkit.recipes import Recipe
from vitkit.training import Data, Hardware, Run, RunFolder, train
from vitkit.training.optim import Optimizer
from vitkit.training.schedule import Schedule

# From black to white: space, light, medium and dark shade, full block.
SHADES = " \u2591\u2592\u2593\u2588"


def text_lines(image: Image.Image) -> list[str]:
    """Returns an image as lines of text, in which two equal characters show the brightness of each pixel."""
    pixels: UInt8[np.ndarray, "h w"] = np.asarray(image.convert("L"))
    shades = pixels.astype(int) * len(SHADES) // 256
    return ["".join(SHADES[shade] * 2 for shade in row) for row in shades]


def side_by_side(columns: Sequence[Sequence[str]], *, gap: int = 4) -> str:
    """Joins blocks of text lines horizontally. Each block is padded to its longest line."""
    height = max(len(column) for column in columns)
    widths = [max(len(line) for line in column) for column in columns]
    rows = []
    for index in range(height):
        cells = [column[index] if index < len(column) else "" for column in columns]
        rows.append((" " * gap).join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    return "\n".join(rows)


SIDE = 16


def tiny(name: str = "digits.tiny") -> Run:
    """Returns the config of the recipe `digits.tiny`, which trains a very small ViT."""
    return Run(
        name=name,
        model=vit.Config(
            image_size=(SIDE, SIDE),
            patch_size=(4, 4),
            width=96,
            depth=3,
            num_heads=3,
            mlp_width=192,
            num_classes=10,
        ),
        objective=supervised.Config(label_smoothing=0.1),
        data=Data(source="digits", held_out=0.2, split_seed=0),
        processor=Processor.squash(SIDE, interpolation="bicubic"),
        augment=Augment(rotate=12.0, shift=0.08, zoom=0.1),
        optimizer=Optimizer(lr=2e-3, weight_decay=0.05),
        schedule=Schedule(decay="cosine", warmup=120),
        batch_size=64,
        steps=1200,
        evaluate_every=100,
        select="last",
        hardware=Hardware(threads=1, save_every=300),
    )


RECIPES = (
    Recipe(
        name="digits.tiny",
        summary="ViT of 0.2 M parameters on 8x8-pixel digits, resized to 16x16",
        base=tiny,
        expected="98.6 to 99.2 % after the last step (seeds 0 to 3)",
        data="digits",
        notes='`vitkit demo` runs it; in Python: `train(recipe("digits.tiny"), "runs/digits")`. A stratified split '
        "(seed 0) gives 1,438 training images and 359 held-out images. About 45 seconds of one CPU core.",
    ),
)


def demo(out: str | Path = "runs/demo", *, console: Console | None = None, keep_memory: bool = False) -> Path:
    """Trains the recipe `digits.tiny` in the folder `out`, prints predictions, and returns the path of the report.

    An interrupted run is resumed. If the run in `out` is finished, the demo uses `out-2`, `out-3`, ... instead.
    `keep_memory` is passed to `vitkit.training.train`.
    """
    screen = console or Console(highlight=False)
    run, start = tiny(), time.monotonic()
    folder = _choose_folder(Path(out), run)
    training, held_out = train_and_val(run.data.source, held_out=run.data.held_out, seed=run.data.split_seed)
    screen.print(
        f"Training a Vision Transformer on handwritten digits: {len(training):,} training images, {len(held_out)} "
        f"held-out images (a stratified fifth, split seed {run.data.split_seed}, training seed {run.seed})."
    )
    result = train(run, folder, console=screen, keep_memory=keep_memory)
    seconds = time.monotonic() - start
    wrong = round((1 - result.score) * len(held_out))
    screen.print(
        f"\nAccuracy on the held-out images: {result.score:.2%} ({wrong} of {len(held_out)} wrong), after "
        f"{seconds:.0f} seconds.\n"
    )
    screen.print(_show_predictions(load(folder / "best"), held_out, screen.width), markup=False)
    screen.print(f"\nThe model:   {folder / 'best'}   (vitkit classify {folder / 'best'} IMAGE)")
    screen.print(f"The report:  {folder / 'report.html'}   (open it in a browser)")
    return folder / "report.html"


def _choose_folder(out: Path, run: Run) -> Path:
    """Returns the first of the folders `out`, `out-2`, ... that does not exist or in which `run` is unfinished."""

    def fits(folder: Path) -> bool:
        run_folder = RunFolder(folder)
        unfinished = run_folder.config.exists() and not run_folder.report.exists()
        return not folder.exists() or (unfinished and run_folder.run() == run)

    folders = (out if number == 1 else out.with_name(f"{out.name}-{number}") for number in count(1))
    return next(folder for folder in folders if fits(folder))


def _show_predictions(classifier: Classifier, held_out: Source, width: int, num: int = 8) -> str:
    """Returns text that shows some held-out digits and their predicted classes."""
    cells = []
    for index in range(0, len(held_out), len(held_out) // num)[:num]:
        example = held_out.read(index)
        (_, predictions) = next(iter(classifier.classify(example.image, top=1)))
        best = predictions[0]
        correction = "" if best.index == example.label else f", label {example.label}"
        cells.append([*text_lines(example.image.convert("RGB")), f"{best.label} ({best.score:.0%}){correction}"])
    across = max(1, min(4, width // 22))
    rows = [side_by_side(cells[start : start + across]) for start in range(0, len(cells), across)]
    return "\n\n".join(rows)
