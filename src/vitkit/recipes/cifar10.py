"""CIFAR-10 from scratch with a small ViT: an hour of a laptop's CPU, or ten minutes of one GPU."""

from typing import Any

from vitkit.data.augment import Augment
from vitkit.data.crop import Crop
from vitkit.data.mixing import Mixing
from vitkit.data.processor import Processor
from vitkit.data.randaugment import RandAugment
from vitkit.models import vit
from vitkit.objectives import supervised
from vitkit.train import Data, Machine, Run
from vitkit.train.optim import Optimizer
from vitkit.train.schedule import Schedule


def cpu() -> Run:
    """A ViT of 1.2 M parameters on CIFAR-10 from scratch, meant for an hour of two CPU cores; above 80 % is the aim.

    `vitkit train cifar10.cpu --data parquet:/data/cifar10`; neither time nor accuracy was measured here.
    """
    augment = Augment(crop=Crop(kind="simple", padding=4), flip=True)
    model: dict[str, Any] = {"width": 128, "depth": 6, "num_heads": 4, "mlp_width": 512}
    return _run("cifar10.cpu", model, augment, batch_size=128, epochs=14.0, rate=1e-3)


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
    model: dict[str, Any] = {"width": 384, "depth": 6, "num_heads": 6, "mlp_width": 1536, "stochastic_depth": 0.1}
    return _run("cifar10.gpu", model, augment, batch_size=512, epochs=100.0, rate=1e-3)


def _run(name: str, model: dict[str, Any], augment: Augment, *, batch_size: int, epochs: float, rate: float) -> Run:
    on_gpu = name.endswith("gpu")
    shape = {"image_size": (32, 32), "patch_size": (4, 4), "num_classes": 10, "class_token": False, "pool": "gap"}
    return Run(
        name=name,
        model=vit.Config(**shape, **model),
        objective=supervised.Config(label_smoothing=0.1),
        data=Data(source=""),
        processor=Processor.squash(32),
        augment=augment,
        optimizer=Optimizer(rate=rate, weight_decay=0.05),
        schedule=Schedule(decay="cosine", warmup=500),
        batch_size=batch_size,
        epochs=epochs,
        evaluate_every=1000,
        precision="bfloat16" if on_gpu else "float32",
        keep="last",
        machine=Machine(compile=on_gpu, tf32=on_gpu),
    )
