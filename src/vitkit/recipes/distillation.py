"""Distillation recipes: DeiT, a small model for images of flowers, and a small model for digits."""

import dataclasses

from vitkit.data.augment import Augment
from vitkit.data.augment.crop import Crop
from vitkit.data.augment.presets import deit
from vitkit.data.processor import IMAGENET_MEAN, IMAGENET_STD, Processor
from vitkit.models import preset, vit
from vitkit.objectives import distillation
from vitkit.recipes import Recipe, digits
from vitkit.training import Data, Hardware, Run
from vitkit.training.optim import Optimizer
from vitkit.training.schedule import Schedule

#: Number of training images.
IMAGENET = 1_281_167

#: Recipe, model, and top-1 accuracy with a RegNetY-16GF as the teacher.
DEIT = (
    ("deit_ti16_imagenet", "DeiT-Ti/16", "74.5"),
    ("deit_s16_imagenet", "DeiT-S/16", "81.2"),
    ("deit_b16_imagenet", "DeiT-B/16", "83.4"),
)


def _deit(name: str, size: str) -> Run:
    return Run(
        name=name,
        model=preset(size, stochastic_depth=0.1),
        objective=distillation.Config(kind="hard", alpha=0.5, label_smoothing=0.1),
        data=Data(source="folder:imagenet"),
        processor=Processor.crop(224, 0.875, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        augment=deit(),
        optimizer=Optimizer(lr=5e-4 * 1024 / 512, weight_decay=0.05, clip=None),
        schedule=Schedule(warmup=5 * IMAGENET // 1024, end=1e-5 / 1e-3),
        batch_size=1024,
        epochs=300.0,
        precision="bfloat16",
        evaluators=("top1",),
        evaluate_every=5_000,
        select="last",
        hardware=Hardware(workers=8, save_every=5_000),
    )


def _flowers(name: str) -> Run:
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
        name=name,
        model=model,
        objective=distillation.Config(kind="soft", separate_head=True, alpha=0.9, temperature=2.0, label_smoothing=0.1),
        data=Data(source="folder:flowers"),
        processor=Processor.crop(96, 0.875, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        augment=Augment(crop=Crop(kind="torchvision", area=(0.3, 1.0)), flip=True),
        optimizer=Optimizer(lr=1e-3, weight_decay=0.05),
        schedule=Schedule(warmup=1_250),
        batch_size=32,
        epochs=200.0,
        precision="bfloat16",
        evaluators=("top1",),
        evaluate_every=1_250,
        select="last",
    )


def _digits(name: str) -> Run:
    run = digits.tiny(name)
    return dataclasses.replace(
        run,
        model=dataclasses.replace(run.model, width=32, num_heads=2, mlp_width=64),
        objective=distillation.Config(teacher="runs/digits.tiny/best", kind="soft", alpha=0.7),
    )


RECIPES = (
    *(
        Recipe(
            name=f"distillation.{name}",
            summary=f"{model} with a distillation token and the hard labels of a teacher, 300 epochs",
            base=_deit,
            overrides={"size": f"{model.lower()}-distilled"},
            expected=f"{accuracy} % top-1",
            source="Touvron et al. 2021, Tables 7 and 9",
            data="folder:imagenet",
            options="--set objective.teacher=CHECKPOINT",
            notes="The teacher of the paper is a RegNetY-16GF, which vitkit does not have; any checkpoint with the "
            "same 1000 classes can be the teacher. Not run to completion with vitkit.",
        )
        for name, model, accuracy in DEIT
    ),
    Recipe(
        name="distillation.flowers_student",
        summary="ViT of 0.8 M parameters on 96-pixel flower images of five classes, with the soft labels of a teacher",
        base=_flowers,
        expected="73.0 and 74.2 % (two seeds)",
        data="folder:flowers",
        options="--set objective.teacher=deit_tiny_patch16_224",
        notes="Any checkpoint can be the teacher, also one with other classes. 54 minutes of one CPU core with "
        "DeiT-Tiny at 128 pixels as the teacher; without a teacher 72.2 and 70.8 % (`benchmarks/distillation.py`).",
    ),
    Recipe(
        name="distillation.digits_student",
        summary="A third of the width of `digits.tiny`, trained with the soft labels of `digits.tiny`",
        base=_digits,
        data="digits",
        notes="First run `vitkit train digits.tiny`, which saves the teacher in runs/digits.tiny/best. Under a minute "
        "of one CPU core. The gain over training without a teacher was not measured.",
    ),
)
