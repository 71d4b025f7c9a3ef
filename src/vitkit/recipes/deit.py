"""DeiT: ViTs trained on ImageNet-1k alone (Touvron et al. 2021, Tables 7 and 9).

300 epochs with batch size 1024 and a learning rate of 5e-4 per 512 images. The original updates the learning rate once
an epoch; here it changes every step: a linear warm-up from 0, then cosine decay to 1e-5. No recipe of this file has
been run to completion with vitkit. The recipes with a teacher are in `distillation`.
"""

from vitkit.data.augment.presets import deit
from vitkit.data.processor import IMAGENET_MEAN, IMAGENET_STD, Processor
from vitkit.models import preset
from vitkit.objectives import supervised
from vitkit.recipes import Recipe
from vitkit.training import Data, Hardware, Run
from vitkit.training.optim import Optimizer
from vitkit.training.schedule import Schedule

#: Number of training images.
IMAGENET = 1_281_167

#: Recipe, model and top-1 accuracy.
SIZES = (
    ("ti16_imagenet", "DeiT-Ti/16", "72.2"),
    ("s16_imagenet", "DeiT-S/16", "79.8"),
    ("b16_imagenet", "DeiT-B/16", "81.8"),
)


def _run(name: str, size: str) -> Run:
    return Run(
        name=name,
        model=preset(size, num_classes=1000, stochastic_depth=0.1),
        objective=supervised.Config(label_smoothing=0.1),
        data=Data(source="", held_out=0.01),
        processor=Processor.crop(224, 0.875, interpolation="bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD),
        augment=deit(),
        optimizer=Optimizer(lr=5e-4 * 1024 / 512, weight_decay=0.05, clip=None),
        schedule=Schedule(decay="cosine", warmup=5 * IMAGENET // 1024, end=1e-5 / 1e-3),
        batch_size=1024,
        epochs=300,
        precision="bfloat16",
        evaluate_every=5_000,
        select="last",
        hardware=Hardware(workers=8, save_every=5_000),
    )


RECIPES = tuple(
    Recipe(
        name=f"deit.{name}",
        summary=f"{model} on ImageNet-1k, 300 epochs",
        base=_run,
        overrides={"size": model.lower()},
        expected=f"{accuracy} % top-1",
        source="Touvron et al. 2021, Table 7",
        data="parquet:/data/imagenet",
    )
    for name, model, accuracy in SIZES
)
