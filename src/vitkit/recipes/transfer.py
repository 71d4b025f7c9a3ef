"""Fine-tuning as the ViT paper's Table 4 has it: SGD with momentum, batches of 512, cosine, no decay, at 384 pixels.

They start from ViT-B/16 trained on ImageNet-21k; `--start` takes any other checkpoint of that shape, and `--set
model.image_size=[512,512] processor.size=[512,512] average=0.9999` gives the setting of Table 2. Rates are from the
middle of the paper's sweeps. The pictures are your own: `--data`.
"""

from dataclasses import replace

from vitkit import models
from vitkit.data.augment import Augment
from vitkit.data.augment.presets import inception
from vitkit.data.processor import Processor
from vitkit.objectives import supervised
from vitkit.train import Data, Run
from vitkit.train.optim import Optimizer
from vitkit.train.schedule import Schedule

START = "google/vit-base-patch16-224-in21k"


def cifar10() -> Run:
    """ViT-B/16 from ImageNet-21k to CIFAR-10, 10,000 steps at 384: 99.02 % (vision_transformer's README).

    `vitkit train transfer.cifar10 --data parquet:/data/cifar10`; time not measured here.
    """
    return _run("cifar10", 10, steps=10_000, warmup=500, rate=0.01, held_out=0.02)


def cifar100() -> Run:
    """ViT-B/16 from ImageNet-21k to CIFAR-100, 10,000 steps at 384: 92.06 % (vision_transformer's README).

    `vitkit train transfer.cifar100 --data parquet:/data/cifar100`; time not measured here.
    """
    return _run("cifar100", 100, steps=10_000, warmup=500, rate=0.03, held_out=0.02)


def pets() -> Run:
    """ViT-B/16 from ImageNet-21k to Oxford-IIIT Pets, 500 steps at 384: 94.43 % (ViT paper, Table 5).

    `vitkit train transfer.pets --data folder:/data/pets`; time not measured here.
    """
    return _run("pets", 37, steps=500, warmup=100, rate=0.01, held_out=0.1)


def flowers() -> Run:
    """ViT-B/16 from ImageNet-21k to Oxford Flowers-102, 500 steps at 384: 99.38 % (ViT paper, Table 5).

    `vitkit train transfer.flowers --data folder:/data/flowers102`; time not measured here.
    """
    return _run("flowers", 102, steps=500, warmup=100, rate=0.01, held_out=0.1)


def imagenet() -> Run:
    """ViT-B/16 from ImageNet-21k to ImageNet, 20,000 steps at 384: 84.53 % (vision_transformer's README).

    `vitkit train transfer.imagenet --data parquet:/data/imagenet`; time not measured here.
    """
    return _run("imagenet", 1000, steps=20_000, warmup=500, rate=0.03, held_out=0.01)


def imagenet_l16_512() -> Run:
    """ViT-L/16 from ImageNet-21k to ImageNet, 20,000 steps at 512 with Polyak averaging: 85.30 % (ViT paper, Table 2).

    `vitkit train transfer.imagenet_l16_512 --data parquet:/data/imagenet`; time not measured here.
    """
    run = _run("imagenet_l16_512", 1000, steps=20_000, warmup=500, rate=0.03, held_out=0.01)
    return replace(
        run,
        model=models.preset("vit-l/16", image_size=512, num_classes=1000, norm_eps=1e-12),
        processor=Processor.squash(512),
        start="google/vit-large-patch16-224-in21k",
        average=0.9999,
        accumulate=32,
    )


def vtab() -> Run:
    """ViT-B/16 from ImageNet-21k to one task of VTAB-1k, 2,500 steps at 384 on 1,000 pictures (ViT paper, Table 4).

    `vitkit train transfer.vtab --data vtab:caltech101 --set model.num_classes=102`; its numbers there are for ViT-L/16,
    one recipe a task in `vtab`; time not measured here.
    """
    return _run("vtab", 102, steps=2_500, warmup=500, rate=0.01, held_out=0.2)


def _run(name: str, classes: int, *, steps: int, warmup: int, rate: float, held_out: float) -> Run:
    model = models.preset("vit-b/16", image_size=384, num_classes=classes, norm_eps=1e-12)
    return Run(
        name=f"transfer.{name}",
        model=model,
        objective=supervised.Config(),
        data=Data(source="", held_out=held_out),
        processor=Processor.squash(384),
        augment=Augment(crop=inception("tensorflow"), flip=True),
        optimizer=Optimizer(name="sgd", rate=rate, weight_decay=0.0),
        schedule=Schedule(decay="cosine", warmup=warmup),
        batch_size=512,
        accumulate=8,
        steps=steps,
        evaluate_every=max(100, steps // 20),
        start=START,
        keep="last",
    )
