"""A recipe: a small ViT on the handwritten digits that are part of vitkit.

    vitkit check ./my_recipe.py
    vitkit train ./my_recipe.py:small --out runs/digits
    vitkit train ./my_recipe.py:small --set steps=100 --set optimizer.lr=1e-3

`vitkit recipes --plugin ./my_recipe.py` lists it as my_recipe.small.
"""

from vitkit.data.augment import Augment
from vitkit.data.processor import Processor
from vitkit.models import vit
from vitkit.objectives import supervised
from vitkit.recipes import Recipe
from vitkit.training import Data, Hardware, Run
from vitkit.training.optim import Optimizer
from vitkit.training.schedule import Schedule

SIDE = 16  # pixels


def small(name: str = "my_recipe.small", *, width: int = 48) -> Run:
    """Returns the config of the run: its model, data, objective, optimizer and length."""
    return Run(
        name=name,
        # `vitkit.models.preset("vit-ti/16", num_classes=10)` is a published size.
        model=vit.Config(
            image_size=(SIDE, SIDE),
            patch_size=(4, 4),
            width=width,
            depth=2,
            num_heads=3,
            mlp_width=2 * width,
            num_classes=10,
        ),
        objective=supervised.Config(label_smoothing=0.1),
        # A fifth of the images is held out for validation. `--data folder:photos/` replaces the source.
        data=Data(source="digits", held_out=0.2),
        processor=Processor.squash(SIDE),
        augment=Augment(rotate=12.0, shift=0.08),
        optimizer=Optimizer(name="adamw", lr=2e-3, weight_decay=0.05),
        schedule=Schedule(decay="cosine", warmup=40),
        batch_size=64,
        steps=400,
        evaluate_every=100,
        evaluators=("top1", "confusion"),
        metric="top1.accuracy",
        hardware=Hardware(threads=1, save_every=200),
    )


# The recipes of this file. `overrides` are arguments of `base`, for variants of one run.
RECIPES = (
    Recipe("my_recipe.small", "ViT of 39,000 parameters on digits", small, expected="about 96 %", data="digits",
           notes="About 5 seconds of one CPU core."),
    Recipe("my_recipe.wide", "The same with twice the width", small, {"width": 96}, data="digits"),
)  # fmt: skip
