"""Recipes for the digits inside the package: seconds to minutes on a laptop's CPU, no network."""

import time
from itertools import count
from pathlib import Path

from rich.console import Console

from vitkit.data import Source, train_and_val
from vitkit.data.augment import Augment
from vitkit.data.processor import Processor
from vitkit.models import vit
from vitkit.objectives import supervised
from vitkit.predict import Classifier, load
from vitkit.recipes.drawing import side_by_side, text_lines
from vitkit.train import Data, Machine, Run, RunFolder, train
from vitkit.train.optim import Optimizer
from vitkit.train.schedule import Schedule

SIDE = 16


def tiny() -> Run:
    """A ViT of 0.2 M parameters on 1,438 digits of 8x8 pixels, shown at 16x16 in 16 patches; 359 are held out.

    `vitkit demo`, or `train(recipe("digits.tiny"), "runs/digits")` in Python. About 45 seconds of one CPU core. To
    expect: 98.6 to 99.2 % right after the last step (seeds 0 to 3), on a fifth held out by a stratified split with seed
    0.
    """
    return Run(
        name="digits.tiny",
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
        optimizer=Optimizer(rate=2e-3, weight_decay=0.05),
        schedule=Schedule(decay="cosine", warmup=120),
        batch_size=64,
        steps=1200,
        evaluate_every=100,
        keep="last",
        machine=Machine(threads=1, save_every=300),
    )


def demo(out: str | Path = "runs/demo", *, console: Console | None = None, keep_memory: bool = False) -> Path:
    """Trains `tiny` in the folder `out`, shows what it makes of held-out digits, and gives the report's path.

    A run that was stopped goes on; beside one that is over a new one is made in `out-2`, `out-3`, ... No network.
    `keep_memory` is that of `vitkit.train.train`.
    """
    screen = console or Console(highlight=False)
    run, start = tiny(), time.monotonic()
    folder = _free(Path(out), run)
    training, held_out = train_and_val(run.data.source, held_out=run.data.held_out, seed=run.data.split_seed)
    screen.print(
        f"A Vision Transformer learns to read handwritten digits: {len(training):,} to learn from, {len(held_out)} "
        f"held out (a stratified fifth, split seed {run.data.split_seed}, training seed {run.seed})."
    )
    result = train(run, folder, console=screen, keep_memory=keep_memory)
    seconds = time.monotonic() - start
    wrong = round((1 - result.score) * len(held_out))
    screen.print(
        f"\n{result.score:.2%} of the held-out digits are read right ({wrong} of {len(held_out)} wrong), after "
        f"{seconds:.0f} seconds.\n"
    )
    screen.print(_shown(load(folder / "best"), held_out, screen.width), markup=False)
    screen.print(f"\nThe model:   {folder / 'best'}   (vitkit classify {folder / 'best'} IMAGE)")
    screen.print(f"The report:  {folder / 'report.html'}   (open it in a browser)")
    return folder / "report.html"


def _free(out: Path, run: Run) -> Path:
    """`out`, or the first of its numbered neighbours that is not there yet or holds this run unfinished."""

    def fits(folder: Path) -> bool:
        place = RunFolder(folder)
        unfinished = place.config.exists() and not place.report.exists()
        return not folder.exists() or (unfinished and place.run() == run)

    folders = (out if number == 1 else out.with_name(f"{out.name}-{number}") for number in count(1))
    return next(folder for folder in folders if fits(folder))


def _shown(classifier: Classifier, held_out: Source, width: int, num: int = 8) -> str:
    """Some held-out digits, drawn, with what the model says of them."""
    cells = []
    for index in range(0, len(held_out), len(held_out) // num)[:num]:
        example = held_out.read(index)
        (_, predictions) = next(iter(classifier.classify(example.image, top=1)))
        best = predictions[0]
        verdict = "" if best.index == example.label else f", but it is {example.label}"
        cells.append([*text_lines(example.image), f"a {best.label} ({best.score:.0%}){verdict}"])
    across = max(1, min(4, width // 22))
    rows = [side_by_side(cells[start : start + across]) for start in range(0, len(cells), across)]
    return "\n\n".join(rows)
