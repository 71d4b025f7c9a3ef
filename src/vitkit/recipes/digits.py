"""Recipes for the digits inside the package: seconds to minutes on a laptop's CPU, no network."""

from vitkit.data.augment import Augment
from vitkit.data.processor import Processor
from vitkit.models import vit
from vitkit.objectives import supervised
from vitkit.train.optim import Optimizer
from vitkit.train.run import Data, Machine, Run
from vitkit.train.schedule import Schedule

SIDE = 16


def tiny() -> Run:
    """A ViT of 0.2 M parameters on 1,437 digits of 8x8 pixels, shown at 16x16 in 16 patches; 360 are held out.

    vitkit train digits.tiny --out runs/digits
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
            class_token=False,
            pool="gap",
        ),
        objective=supervised.Config(label_smoothing=0.1),
        data=Data(source="digits", held_out=0.2, split_seed=0),
        processor=Processor.squash(SIDE, interpolation="bicubic"),
        augment=Augment(rotate=12.0, shift=0.08, zoom=0.1),
        optimizer=Optimizer(rate=3e-3, weight_decay=0.05),
        schedule=Schedule(decay="cosine", warmup=80),
        batch_size=64,
        steps=800,
        evaluate_every=100,
        machine=Machine(save_every=400),
    )
