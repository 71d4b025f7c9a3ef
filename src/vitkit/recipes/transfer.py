"""Fine-tuning as in Table 4 of the ViT paper, with images of 384x384 pixels.

The recipes start from ViT-B/16 pre-trained on ImageNet-21k; `--init-from` takes another checkpoint of the same shape.
The learning rates are from the middle of the paper's sweeps. For the setting of Table 2 add
`--set model.image_size=[512,512] processor.size=[512,512] ema=0.9999`.
"""

from dataclasses import replace

from vitkit import models
from vitkit.data.augment import Augment
from vitkit.data.augment.presets import inception
from vitkit.data.processor import Processor
from vitkit.objectives import supervised
from vitkit.recipes import Recipe
from vitkit.training import Data, Run
from vitkit.training.optim import Optimizer
from vitkit.training.schedule import Schedule

START = "google/vit-base-patch16-224-in21k"
README = "vision_transformer README"

#: Recipe, dataset, classes, steps, warm-up steps, learning rate, held-out fraction, accuracy, source, `--data`.
B16 = (
    ("cifar10", "CIFAR-10", 10, 10_000, 500, 0.01, 0.02, "99.02 %", README, "parquet:/data/cifar10"),
    ("cifar100", "CIFAR-100", 100, 10_000, 500, 0.03, 0.02, "92.06 %", README, "parquet:/data/cifar100"),
    ("pets", "Oxford-IIIT Pets", 37, 500, 100, 0.01, 0.1, "94.43 %", "ViT paper, Table 5", "folder:/data/pets"),
    ("flowers", "Flowers-102", 102, 500, 100, 0.01, 0.1, "99.38 %", "ViT paper, Table 5", "folder:/data/flowers102"),
    ("imagenet", "ImageNet-1k", 1000, 20_000, 500, 0.03, 0.01, "84.53 %", README, "parquet:/data/imagenet"),
)


def _b16(name: str, classes: int, steps: int, warmup: int, rate: float, held_out: float) -> Run:
    return Run(
        name=name,
        model=models.preset("vit-b/16", image_size=384, num_classes=classes, norm_eps=1e-12),
        objective=supervised.Config(),
        data=Data(source="", held_out=held_out),
        processor=Processor.squash(384),
        augment=Augment(crop=inception("tensorflow"), flip=True),
        optimizer=Optimizer(name="sgd", lr=rate, weight_decay=0.0),
        schedule=Schedule(decay="cosine", warmup=warmup),
        batch_size=512,
        grad_accum_steps=8,
        steps=steps,
        evaluate_every=max(100, steps // 20),
        init_from=START,
        select="last",
    )


def _l16_512(name: str) -> Run:
    return replace(
        _b16(name, 1000, steps=20_000, warmup=500, rate=0.03, held_out=0.01),
        model=models.preset("vit-l/16", image_size=512, num_classes=1000, norm_eps=1e-12),
        processor=Processor.squash(512),
        init_from="google/vit-large-patch16-224-in21k",
        ema=0.9999,
        grad_accum_steps=32,
    )


RECIPES = (
    *(
        Recipe(
            name=f"transfer.{name}",
            summary=f"ViT-B/16 from ImageNet-21k to {dataset}, {steps:,} steps at 384 pixels",
            base=_b16,
            overrides={"classes": classes, "steps": steps, "warmup": warmup, "rate": rate, "held_out": held_out},
            expected=accuracy,
            source=source,
            data=data,
        )
        for name, dataset, classes, steps, warmup, rate, held_out, accuracy, source, data in B16
    ),
    Recipe(
        name="transfer.imagenet_l16_512",
        summary="ViT-L/16 from ImageNet-21k to ImageNet-1k, 20,000 steps at 512 pixels with Polyak averaging",
        base=_l16_512,
        expected="85.30 %",
        source="ViT paper, Table 2",
        data="parquet:/data/imagenet",
    ),
    Recipe(
        name="transfer.vtab",
        summary="ViT-B/16 from ImageNet-21k to a task of VTAB-1k, 2,500 steps at 384 pixels",
        base=_b16,
        overrides={"classes": 102, "steps": 2_500, "warmup": 500, "rate": 0.01, "held_out": 0.2},
        source="ViT paper, Table 4",
        data="vtab:caltech101",
        options="--set model.num_classes=102",
        notes="The published accuracies are those of ViT-L/16: see the recipes `vtab.TASK`. Training time was not "
        "measured.",
    ),
)
