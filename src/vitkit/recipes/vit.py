"""Pre-training as the ViT paper's Table 3 has it, and its plain successor on ImageNet ("Better plain ViT baselines").

JFT-300M is not public and ImageNet must be your own: each takes `--data`, as in `--data parquet:/data/imagenet`.
"""

from dataclasses import replace
from typing import Any

from vitkit import models
from vitkit.data.augment import Augment
from vitkit.data.augment.presets import augreg, inception
from vitkit.data.processor import Processor
from vitkit.objectives import supervised
from vitkit.train import Data, Run
from vitkit.train.optim import Optimizer
from vitkit.train.schedule import Schedule

IMAGENET, IMAGENET_21K, JFT = 1000, 21_843, 18_291


def s16_imagenet() -> Run:
    """Better plain ViT-S/16 on ImageNet-1k, 90 epochs: 76.5 % top-1 (Beyer et al. 2022).

    `vitkit train vit.s16_imagenet --data parquet:/data/imagenet`; 6 to 7 hours on a TPUv3-8, not measured here.
    """
    return _plain("s16_imagenet", 90)


def s16_imagenet_150() -> Run:
    """Better plain ViT-S/16 on ImageNet-1k, 150 epochs: 78.5 % top-1 (Beyer et al. 2022).

    `vitkit train vit.s16_imagenet_150 --data parquet:/data/imagenet`; time not measured here.
    """
    return _plain("s16_imagenet_150", 150)


def s16_imagenet_300() -> Run:
    """Better plain ViT-S/16 on ImageNet-1k, 300 epochs: 80.0 % top-1 (Beyer et al. 2022).

    `vitkit train vit.s16_imagenet_300 --data parquet:/data/imagenet`; time not measured here.
    """
    return _plain("s16_imagenet_300", 300)


def _plain(name: str, epochs: float) -> Run:
    plain = {"class_token": False, "pool": "gap", "position": "sincos2d", "pre_logits": 384, "activation": "gelu_tanh"}
    return Run(
        name=f"vit.{name}",
        model=models.preset("vit-s/16", num_classes=IMAGENET, **plain),
        objective=supervised.Config(),
        data=Data(source="", held_out=0.01),
        processor=Processor.crop(224, 7 / 8, interpolation="box"),
        augment=augreg("light2"),
        optimizer=Optimizer(rate=1e-3, weight_decay=1e-4, decay="schedule"),
        schedule=Schedule(decay="cosine", warmup=10_000),
        batch_size=1024,
        epochs=epochs,
        evaluate_every=5000,
        keep="last",
    )


def b32_imagenet() -> Run:
    """ViT-B/32 from scratch on ImageNet, 300 epochs: 69.19 % at 224 (the authors, in their repository's issue 62).

    `vitkit train vit.b32_imagenet --data parquet:/data/imagenet`; time not measured here.
    """
    return _imagenet("b32_imagenet", "vit-b/32")


def b16_imagenet() -> Run:
    """ViT-B/16 from scratch on ImageNet, 300 epochs: 74.79 % at 224; 77.91 % fine-tuned at 384 (ViT paper, Table 5).

    `vitkit train vit.b16_imagenet --data parquet:/data/imagenet`; time not measured here.
    """
    return _imagenet("b16_imagenet", "vit-b/16")


def l32_imagenet() -> Run:
    """ViT-L/32 from scratch on ImageNet, 300 epochs: 66.90 % at 224 (the authors, in their repository's issue 62).

    `vitkit train vit.l32_imagenet --data parquet:/data/imagenet`; time not measured here.
    """
    return _imagenet("l32_imagenet", "vit-l/32")


def l16_imagenet() -> Run:
    """ViT-L/16 from scratch on ImageNet, 300 epochs: 72.59 % at 224 (the authors, in their repository's issue 62).

    `vitkit train vit.l16_imagenet --data parquet:/data/imagenet`; time not measured here.
    """
    return _imagenet("l16_imagenet", "vit-l/16")


def b32_imagenet21k() -> Run:
    """ViT-B/32 on ImageNet-21k, 90 epochs: 44.04 % precision at 1 there, 81.28 % on ImageNet after fine-tuning.

    `vitkit train vit.b32_imagenet21k --data webdataset:/data/imagenet21k`; time not measured here.
    """
    return _imagenet21k("b32_imagenet21k", "vit-b/32")


def b16_imagenet21k() -> Run:
    """ViT-B/16 on ImageNet-21k, 90 epochs: 47.88 % precision at 1 there (the authors, issue 62).

    `vitkit train vit.b16_imagenet21k --data webdataset:/data/imagenet21k`; time not measured here.
    """
    return _imagenet21k("b16_imagenet21k", "vit-b/16")


def l32_imagenet21k() -> Run:
    """ViT-L/32 on ImageNet-21k, 90 epochs: 45.42 % precision at 1 there (the authors, issue 62).

    `vitkit train vit.l32_imagenet21k --data webdataset:/data/imagenet21k`; time not measured here.
    """
    return _imagenet21k("l32_imagenet21k", "vit-l/32")


def l16_imagenet21k() -> Run:
    """ViT-L/16 on ImageNet-21k, 90 epochs: 49.90 % precision at 1 there; 85.30 % on ImageNet at 512 (Table 2).

    `vitkit train vit.l16_imagenet21k --data webdataset:/data/imagenet21k`; time not measured here.
    """
    return _imagenet21k("l16_imagenet21k", "vit-l/16")


def h14_imagenet21k() -> Run:
    """ViT-H/14 on ImageNet-21k: 49.06 % precision at 1 there (issue 62); 85.13 % on ImageNet after fine-tuning.

    `vitkit train vit.h14_imagenet21k --data webdataset:/data/imagenet21k`; Table 5 has its results and Table 3 no row
    for it, so its settings are those of ViT-L; time not measured here.
    """
    return _imagenet21k("h14_imagenet21k", "vit-h/14")


def b32_jft() -> Run:
    """ViT-B/32 on JFT-300M, 7 epochs: 80.73 % on ImageNet after fine-tuning (ViT paper, Table 5). JFT is not public.

    `vitkit train vit.b32_jft --data SOURCE`, as a configuration; time not measured here.
    """
    return _jft("b32_jft", "vit-b/32", rate=8e-4, epochs=7)


def b16_jft() -> Run:
    """ViT-B/16 on JFT-300M, 7 epochs: 84.15 % on ImageNet after fine-tuning (ViT paper, Table 5). JFT is not public.

    `vitkit train vit.b16_jft --data SOURCE`, as a configuration; time not measured here.
    """
    return _jft("b16_jft", "vit-b/16", rate=8e-4, epochs=7)


def l32_jft() -> Run:
    """ViT-L/32 on JFT-300M, 7 epochs, as a configuration (ViT paper, Table 3). JFT is not public.

    `vitkit train vit.l32_jft --data SOURCE`; the paper's figure is in its Table 5, time not measured here.
    """
    return _jft("l32_jft", "vit-l/32", rate=6e-4, epochs=7)


def l16_jft() -> Run:
    """ViT-L/16 on JFT-300M, 14 epochs: 87.76 % on ImageNet after fine-tuning at 512 (Table 2). JFT is not public.

    `vitkit train vit.l16_jft --data SOURCE`, as a configuration; epochs=7 is the shorter row; time not measured here.
    """
    return _jft("l16_jft", "vit-l/16", rate=4e-4, epochs=14)


def h14_jft() -> Run:
    """ViT-H/14 on JFT-300M, 14 epochs: 88.55 % on ImageNet after fine-tuning at 518 (Table 2). JFT is not public.

    `vitkit train vit.h14_jft --data SOURCE`, as a configuration; time not measured here.
    """
    return _jft("h14_jft", "vit-h/14", rate=3e-4, epochs=14)


def r50_b32_jft() -> Run:
    """R50+ViT-B/32 on JFT-300M, 7 epochs, as a configuration (ViT paper, Table 3). JFT is not public.

    `vitkit train vit.r50_b32_jft --data SOURCE`; the paper's figure is in its Table 6, time not measured here.
    """
    return _jft("r50_b32_jft", "r50+vit-b/32", rate=8e-4, epochs=7)


def r50_b16_jft() -> Run:
    """R50+ViT-B/16 on JFT-300M, 7 epochs, as a configuration (ViT paper, Table 3). JFT is not public.

    `vitkit train vit.r50_b16_jft --data SOURCE`; the paper's figure is in its Table 6, time not measured here.
    """
    return _jft("r50_b16_jft", "r50+vit-b/16", rate=8e-4, epochs=7)


def r50_l32_jft() -> Run:
    """R50+ViT-L/32 on JFT-300M, 7 epochs, as a configuration (ViT paper, Table 3). JFT is not public.

    `vitkit train vit.r50_l32_jft --data SOURCE`; the paper's figure is in its Table 6, time not measured here.
    """
    return _jft("r50_l32_jft", "r50+vit-l/32", rate=2e-4, epochs=7)


def r50_l16_jft() -> Run:
    """R50+ViT-L/16 on JFT-300M, 14 epochs, as a configuration (ViT paper, Table 3). JFT is not public.

    `vitkit train vit.r50_l16_jft --data SOURCE`; the paper's figure is in its Table 6, time not measured here.
    """
    return _jft("r50_l16_jft", "r50+vit-l/16", rate=4e-4, epochs=14)


def _imagenet(name: str, size: str) -> Run:
    # The paper does not say which loss; softmax is what it fine-tunes with.
    run = _pretraining(name, _dropped(size, IMAGENET, 0.1), supervised.Config(), rate=3e-3, decay=0.3)
    return replace(run, schedule=Schedule(decay="cosine", warmup=10_000), epochs=300)


def _imagenet21k(name: str, size: str) -> Run:
    loss = supervised.Config(loss="sigmoid", head_bias=-10.0)
    run = _pretraining(name, _dropped(size, IMAGENET_21K, 0.1), loss, rate=1e-3, decay=0.03)
    return replace(run, epochs=90, optimizer=replace(run.optimizer, clip=None))


def _jft(name: str, size: str, *, rate: float, epochs: int) -> Run:
    loss = supervised.Config(loss="sigmoid", head_bias=-10.0)
    run = _pretraining(name, _dropped(size, JFT, 0.0), loss, rate=rate, decay=0.1)
    return replace(run, epochs=epochs, optimizer=replace(run.optimizer, clip=None))


def _dropped(size: str, classes: int, dropout: float) -> Any:
    """The paper's models before fine-tuning have a tanh layer as wide as a token before the head."""
    config = models.preset(size, num_classes=classes, activation="gelu_tanh", dropout=dropout)
    return replace(config, pre_logits=config.width)


def _pretraining(name: str, model: Any, loss: supervised.Config, *, rate: float, decay: float) -> Run:
    """What all rows of Table 3 share: Adam, batches of 4096, 10,000 steps of warm-up, Inception crops at 224."""
    return Run(
        name=f"vit.{name}",
        model=model,
        objective=loss,
        data=Data(source="", held_out=0.01),
        processor=Processor.squash(224),
        augment=Augment(crop=inception("tensorflow"), flip=True),
        optimizer=Optimizer(rate=rate, weight_decay=decay),
        schedule=Schedule(decay="linear", warmup=10_000, end=0.01),
        batch_size=4096,
        epochs=1,
        evaluate_every=5000,
        keep="last",
    )
