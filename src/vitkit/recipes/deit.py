"""DeiT: ViTs on ImageNet-1k alone, by augmentation and regularisation (Touvron et al. 2021, tables 7 and 9).

300 epochs of batches of 1024 at a rate of 5e-4 for every 512 pictures. The original steps its rate once an epoch; here
it changes with every step, from 0 up and on a cosine down to 1e-5. Nobody has run them to the end with vitkit yet. With
a teacher: `distillation`.
"""

from vitkit.data.augment.presets import deit
from vitkit.data.processor import IMAGENET_MEAN, IMAGENET_STD, Processor
from vitkit.models import preset
from vitkit.objectives import supervised
from vitkit.train import Data, Machine, Run
from vitkit.train.optim import Optimizer
from vitkit.train.schedule import Schedule

IMAGENET = 1_281_167


def ti16_imagenet() -> Run:
    """DeiT-Ti/16 on ImageNet-1k, 300 epochs: 72.2 %.

    `vitkit train deit.ti16_imagenet --data parquet:/data/imagenet`; time not measured here.
    """
    return _run("ti16_imagenet", "deit-ti/16")


def s16_imagenet() -> Run:
    """DeiT-S/16 on ImageNet-1k, 300 epochs: 79.8 %.

    `vitkit train deit.s16_imagenet --data parquet:/data/imagenet`; time not measured here.
    """
    return _run("s16_imagenet", "deit-s/16")


def b16_imagenet() -> Run:
    """DeiT-B/16 on ImageNet-1k, 300 epochs: 81.8 %.

    `vitkit train deit.b16_imagenet --data parquet:/data/imagenet`; time not measured here.
    """
    return _run("b16_imagenet", "deit-b/16")


def _run(name: str, size: str) -> Run:
    return Run(
        name=f"deit.{name}",
        model=preset(size, num_classes=1000, stochastic_depth=0.1),
        objective=supervised.Config(label_smoothing=0.1),
        data=Data(source="", held_out=0.01),
        processor=Processor.crop(224, 0.875, interpolation="bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD),
        augment=deit(),
        optimizer=Optimizer(rate=5e-4 * 1024 / 512, weight_decay=0.05, clip=None),
        schedule=Schedule(decay="cosine", warmup=5 * IMAGENET // 1024, end=1e-5 / 1e-3),
        batch_size=1024,
        epochs=300,
        precision="bfloat16",
        evaluate_every=5_000,
        keep="last",
        machine=Machine(workers=8, save_every=5_000),
    )
