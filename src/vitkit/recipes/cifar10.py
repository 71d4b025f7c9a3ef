"""Training of small ViTs on CIFAR-10 from scratch, in about an hour on a laptop CPU or ten minutes on a GPU."""

from typing import Any

from vitkit.data.augment import Augment
from vitkit.data.augment.crop import Crop
from vitkit.data.augment.mixing import Mixing
from vitkit.data.augment.randaugment import RandAugment
from vitkit.data.processor import Processor
from vitkit.models import hybrid, vit
from vitkit.objectives import supervised
from vitkit.recipes import Recipe
from vitkit.training import Data, Hardware, Run
from vitkit.training.optim import Optimizer
from vitkit.training.schedule import Schedule

SHAPE: dict[str, Any] = {
    "image_size": (32, 32),
    "patch_size": (4, 4),
    "num_classes": 10,
    "class_token": False,
    "pool": "gap",
}


def _cpu(name: str) -> Run:
    model = hybrid.Config(
        **SHAPE, width=128, depth=4, num_heads=4, mlp_width=256, depths=(2,), stem_width=64, num_groups=16
    )
    augment = Augment(crop=Crop(kind="simple", padding=4), flip=True)
    optimizer = Optimizer(name="muon", lr=2e-3, weight_decay=0.05)
    return _run(name, model, augment, optimizer, batch_size=128, epochs=15.0, hardware=Hardware())


def _gpu(name: str) -> Run:
    augment = Augment(
        crop=Crop(kind="simple", padding=4),
        flip=True,
        randaugment=RandAugment(layers=2, magnitude=10.0),
        mixing=Mixing(mixup=0.2),
    )
    model = vit.Config(**SHAPE, width=384, depth=6, num_heads=6, mlp_width=1536, stochastic_depth=0.1)
    optimizer = Optimizer(lr=1e-3, weight_decay=0.05)
    hardware = Hardware(compile=True, tf32=True)
    return _run(name, model, augment, optimizer, batch_size=512, epochs=100.0, hardware=hardware)


def _run(
    name: str,
    model: object,
    augment: Augment,
    optimizer: Optimizer,
    *,
    batch_size: int,
    epochs: float,
    hardware: Hardware,
) -> Run:
    return Run(
        name=name,
        model=model,
        objective=supervised.Config(label_smoothing=0.1),
        data=Data(source=""),
        processor=Processor.squash(32),
        augment=augment,
        optimizer=optimizer,
        schedule=Schedule(decay="linear", warmup=200),
        batch_size=batch_size,
        epochs=epochs,
        evaluate_every=1000,
        precision="bfloat16",
        select="last",
        hardware=hardware,
    )


RECIPES = (
    Recipe(
        name="cifar10.cpu",
        summary="Hybrid of two bottlenecks and four encoder blocks on CIFAR-10 from scratch, 0.7 M parameters",
        base=_cpu,
        expected="84.87 %",
        data="parquet:/data/cifar10",
        notes="66 CPU minutes on one core of an AMD EPYC (2026-11-21, torch 2.15).",
    ),
    Recipe(
        name="cifar10.gpu",
        summary="ViT of 10.7 M parameters on CIFAR-10 from scratch, for ten minutes of one GPU",
        base=_gpu,
        data="parquet:/data/cifar10",
        options="--set hardware.workers=8",
        notes="The goal is an accuracy above 93 %. Accuracy and training time were not measured.",
    ),
)
