"""Recipes that learn from a teacher: DeiT's, one for photos of flowers, and one for the digits inside the package."""

import dataclasses

from vitkit.data.augment import Augment
from vitkit.data.augment.crop import Crop
from vitkit.data.augment.presets import deit
from vitkit.data.processor import IMAGENET_MEAN, IMAGENET_STD, Processor
from vitkit.models import preset, vit
from vitkit.objectives import distillation
from vitkit.recipes import digits
from vitkit.train import Data, Machine, Run
from vitkit.train.optim import Optimizer
from vitkit.train.schedule import Schedule

IMAGENET = 1_281_167


def deit_s16_imagenet() -> Run:
    """DeiT-S/16 with a distillation token, otherwise as `deit_ti16_imagenet`: 81.2 % (Touvron et al. 2021, table 7).

    `vitkit train distillation.deit_s16_imagenet --data folder:imagenet --set objective.teacher=CHECKPOINT`
    """
    return _deit("deit_s16_imagenet", "deit-s/16-distilled")


def deit_b16_imagenet() -> Run:
    """DeiT-B/16 with a distillation token, otherwise as `deit_ti16_imagenet`: 83.4 % (Touvron et al. 2021, table 7).

    `vitkit train distillation.deit_b16_imagenet --data folder:imagenet --set objective.teacher=CHECKPOINT`
    """
    return _deit("deit_b16_imagenet", "deit-b/16-distilled")


def deit_ti16_imagenet() -> Run:
    """DeiT-Ti/16 with a distillation token, hard labels of a teacher, 300 epochs (Touvron et al. 2021, table 9).

    `vitkit train distillation.deit_ti16_imagenet --data folder:imagenet --set objective.teacher=CHECKPOINT`, or
    `train(recipe("distillation.deit_ti16_imagenet"), "runs/deit")` in Python with a teacher set. The paper: 74.5 %
    with a RegNetY-16GF as teacher, a family that vitkit has not: any checkpoint of 1000 classes will do. Nobody has
    run it to the end with vitkit yet.
    """
    return _deit("deit_ti16_imagenet", "deit-ti/16-distilled")


def _deit(name: str, size: str) -> Run:
    return Run(
        name=f"distillation.{name}",
        model=preset(size, stochastic_depth=0.1),
        objective=distillation.Config(kind="hard", alpha=0.5, label_smoothing=0.1),
        data=Data(source="folder:imagenet"),
        processor=Processor.crop(224, 0.875, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        augment=deit(),
        optimizer=Optimizer(rate=5e-4 * 1024 / 512, weight_decay=0.05, clip=None),
        schedule=Schedule(warmup=5 * IMAGENET // 1024, end=1e-5 / 1e-3),
        batch_size=1024,
        epochs=300.0,
        precision="bfloat16",
        evaluators=("top1",),
        evaluate_every=5_000,
        keep="last",
        machine=Machine(workers=8, save_every=5_000),
    )


def flowers_student() -> Run:
    """A ViT of 0.8 M parameters for photos of 96 pixels, five classes, from scratch, and what a teacher says of them.

    `vitkit train distillation.flowers_student --data folder:flowers --set objective.teacher=deit_tiny_patch16_224`, or
    `train(recipe("distillation.flowers_student"), "runs/flowers")` in Python with a teacher set: any checkpoint, which
    keeps its own classes. 73.0 and 74.2 % (two seeds), 54 minutes of one CPU core, with DeiT-Tiny shown 128 pixels; by
    labels alone 72.2 and 70.8 % (`benchmarks/distillation.py`).
    """
    model = vit.Config(
        image_size=(96, 96),
        patch_size=(16, 16),
        width=128,
        depth=4,
        num_heads=4,
        mlp_width=512,
        num_classes=5,
        class_token=False,
        pool="gap",
        init="truncated",
    )
    return Run(
        name="distillation.flowers_student",
        model=model,
        objective=distillation.Config(kind="soft", aside=True, alpha=0.9, temperature=2.0, label_smoothing=0.1),
        data=Data(source="folder:flowers"),
        processor=Processor.crop(96, 0.875, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        augment=Augment(crop=Crop(kind="torchvision", area=(0.3, 1.0)), flip=True),
        optimizer=Optimizer(rate=1e-3, weight_decay=0.05),
        schedule=Schedule(warmup=1_250),
        batch_size=32,
        epochs=200.0,
        precision="bfloat16",
        evaluators=("top1",),
        evaluate_every=1_250,
        keep="last",
    )


def digits_student() -> Run:
    """A third of the width of `digits.tiny`, taught by it with soft labels.

    `vitkit train digits.tiny`, which makes the teacher in runs/digits.tiny/best, then
    `vitkit train distillation.digits_student`; or `train(recipe("distillation.digits_student"), "runs/student")` in
    Python. Under a minute of one CPU core; what the student gains has not been measured.
    """
    run = digits.tiny()
    return dataclasses.replace(
        run,
        name="distillation.digits_student",
        model=dataclasses.replace(run.model, width=32, num_heads=2, mlp_width=64),
        objective=distillation.Config(teacher="runs/digits.tiny/best", kind="soft", alpha=0.7),
    )
