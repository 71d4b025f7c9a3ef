"""CIFAR-10 from scratch with small ViTs: an hour of a laptop's CPU, or ten minutes of one GPU."""

from typing import Any

from vitkit.data.augment import Augment
from vitkit.data.augment.crop import Crop
from vitkit.data.augment.mixing import Mixing
from vitkit.data.augment.randaugment import RandAugment
from vitkit.data.processor import Processor
from vitkit.models import hybrid, vit
from vitkit.objectives import supervised
from vitkit.train import Data, Machine, Run
from vitkit.train.optim import Optimizer
from vitkit.train.schedule import Schedule

SHAPE: dict[str, Any] = {
    "image_size": (32, 32),
    "patch_size": (4, 4),
    "num_classes": 10,
    "class_token": False,
    "pool": "gap",
}


def cpu() -> Run:
    """A hybrid of 0.7 M parameters on CIFAR-10 from scratch: two bottlenecks make the 8x8 map that four layers read.

    `vitkit train cifar10.cpu --data parquet:/data/cifar10`: 84.87 % in 66 CPU minutes of one core of an
    AMD EPYC, so within the hour of two (2026-11-21, torch 2.15).
    """
    model = hybrid.Config(
        **SHAPE, width=128, depth=4, num_heads=4, mlp_width=256, depths=(2,), stem_width=64, num_groups=16
    )
    augment = Augment(crop=Crop(kind="simple", padding=4), flip=True)
    optimizer = Optimizer(name="muon", rate=2e-3, weight_decay=0.05)
    return _run("cifar10.cpu", model, augment, optimizer, batch_size=128, epochs=15.0)


def gpu() -> Run:
    """A ViT of 10.7 M parameters on CIFAR-10 from scratch, meant for ten minutes of one GPU; above 93 % is the aim.

    `vitkit train cifar10.gpu --data parquet:/data/cifar10 --set machine.workers=8`; neither time nor accuracy was
    measured here.
    """
    augment = Augment(
        crop=Crop(kind="simple", padding=4),
        flip=True,
        randaugment=RandAugment(layers=2, magnitude=10.0),
        mixing=Mixing(mixup=0.2),
    )
    model = vit.Config(**SHAPE, width=384, depth=6, num_heads=6, mlp_width=1536, stochastic_depth=0.1)
    optimizer = Optimizer(rate=1e-3, weight_decay=0.05)
    return _run("cifar10.gpu", model, augment, optimizer, batch_size=512, epochs=100.0)


def _run(name: str, model: Any, augment: Augment, optimizer: Optimizer, *, batch_size: int, epochs: float) -> Run:
    on_gpu = name.endswith("gpu")
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
        keep="last",
        machine=Machine(compile=on_gpu, tf32=on_gpu),
    )
