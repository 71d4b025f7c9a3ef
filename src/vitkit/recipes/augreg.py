"""Pre-training with augmentation and regularisation chosen by size (Steiner et al. 2022, "How to train your ViT?").

The settings are those of big_vision's configs, which the authors call the best of their search; numbers are the paper's
Table 3. ImageNet must be your own: each takes `--data`.
"""

from typing import Any

from vitkit import models
from vitkit.data.augment.presets import augreg
from vitkit.data.processor import Processor
from vitkit.objectives import supervised
from vitkit.train import Data, Run
from vitkit.train.optim import Optimizer
from vitkit.train.schedule import Schedule


def ti16_imagenet() -> Run:
    """ViT-Ti/16 on ImageNet-1k, 300 epochs, light1: 72.59 % is the best of the paper at 224 without fine-tuning.

    `vitkit train augreg.ti16_imagenet --data parquet:/data/imagenet`; time not measured here.
    """
    return _imagenet("ti16_imagenet", "vit-ti/16", "light1")


def s32_imagenet() -> Run:
    """ViT-S/32 on ImageNet-1k, 300 epochs, medium1: 72.07 % is the best of the paper at 224 without fine-tuning.

    `vitkit train augreg.s32_imagenet --data parquet:/data/imagenet`; time not measured here.
    """
    return _imagenet("s32_imagenet", "vit-s/32", "medium1")


def s16_imagenet() -> Run:
    """ViT-S/16 on ImageNet-1k, 300 epochs, medium2: 79.00 % is the best of the paper at 224 without fine-tuning.

    `vitkit train augreg.s16_imagenet --data parquet:/data/imagenet`; time not measured here.
    """
    return _imagenet("s16_imagenet", "vit-s/16", "medium2")


def b32_imagenet() -> Run:
    """ViT-B/32 on ImageNet-1k, 300 epochs, medium2: 74.42 % is the best of the paper at 224 without fine-tuning.

    `vitkit train augreg.b32_imagenet --data parquet:/data/imagenet`; time not measured here.
    """
    return _imagenet("b32_imagenet", "vit-b/32", "medium2")


def b16_imagenet() -> Run:
    """ViT-B/16 on ImageNet-1k, 300 epochs, medium2: 79.84 % is the best of the paper at 224 without fine-tuning.

    `vitkit train augreg.b16_imagenet --data parquet:/data/imagenet`; time not measured here.
    """
    return _imagenet("b16_imagenet", "vit-b/16", "medium2")


def l16_imagenet() -> Run:
    """ViT-L/16 on ImageNet-1k, 300 epochs, medium2: 75.72 % is the best of the paper at 224 without fine-tuning.

    `vitkit train augreg.l16_imagenet --data parquet:/data/imagenet`; time not measured here.
    """
    return _imagenet("l16_imagenet", "vit-l/16", "medium2")


def ti16_imagenet21k() -> Run:
    """ViT-Ti/16 on ImageNet-21k, 300 epochs, none: 73.75 % on ImageNet after fine-tuning at 224, 78.22 % at 384.

    `vitkit train augreg.ti16_imagenet21k --data webdataset:/data/imagenet21k`; time not measured here.
    """
    return _imagenet21k("ti16_imagenet21k", "vit-ti/16", "none")


def s32_imagenet21k() -> Run:
    """ViT-S/32 on ImageNet-21k, 300 epochs, none: 73.47 % on ImageNet after fine-tuning at 224, 79.58 % at 384.

    `vitkit train augreg.s32_imagenet21k --data webdataset:/data/imagenet21k`; time not measured here.
    """
    return _imagenet21k("s32_imagenet21k", "vit-s/32", "none")


def s16_imagenet21k() -> Run:
    """ViT-S/16 on ImageNet-21k, 300 epochs, light1: 80.46 % on ImageNet after fine-tuning at 224, 83.73 % at 384.

    `vitkit train augreg.s16_imagenet21k --data webdataset:/data/imagenet21k`; time not measured here.
    """
    return _imagenet21k("s16_imagenet21k", "vit-s/16", "light1")


def b32_imagenet21k() -> Run:
    """ViT-B/32 on ImageNet-21k, 300 epochs, light2: 79.13 % on ImageNet after fine-tuning at 224, 83.59 % at 384.

    `vitkit train augreg.b32_imagenet21k --data webdataset:/data/imagenet21k`; time not measured here.
    """
    return _imagenet21k("b32_imagenet21k", "vit-b/32", "light2")


def b16_imagenet21k() -> Run:
    """ViT-B/16 on ImageNet-21k, 300 epochs, light2: 83.96 % on ImageNet after fine-tuning at 224, 85.49 % at 384.

    `vitkit train augreg.b16_imagenet21k --data webdataset:/data/imagenet21k`; time not measured here.
    """
    return _imagenet21k("b16_imagenet21k", "vit-b/16", "light2")


def l16_imagenet21k() -> Run:
    """ViT-L/16 on ImageNet-21k, 300 epochs, medium2: 83.98 % on ImageNet after fine-tuning at 224, 85.59 % at 384.

    `vitkit train augreg.l16_imagenet21k --data webdataset:/data/imagenet21k`; time not measured here.
    """
    return _imagenet21k("l16_imagenet21k", "vit-l/16", "medium2")


def _imagenet(name: str, size: str, strength: str) -> Run:
    config = models.preset(size, num_classes=1000, activation="gelu_tanh")
    model = models.preset(size, num_classes=1000, activation="gelu_tanh", pre_logits=config.width)
    return _run(name, model, strength, head_bias=-6.9)


def _imagenet21k(name: str, size: str, strength: str) -> Run:
    model = models.preset(size, num_classes=21_843, activation="gelu_tanh", class_token=False, pool="gap")
    return _run(name, model, strength, head_bias=-10.0)


def _run(name: str, model: Any, strength: str, *, head_bias: float) -> Run:
    return Run(
        name=f"augreg.{name}",
        model=model,
        objective=supervised.Config(loss="sigmoid", head_bias=head_bias),
        data=Data(source="", held_out=0.01),
        processor=Processor.crop(224, 7 / 8, interpolation="box"),
        augment=augreg(strength),
        optimizer=Optimizer(rate=1e-3, weight_decay=1e-4, decay="schedule"),
        schedule=Schedule(decay="cosine", warmup=10_000),
        batch_size=4096,
        epochs=300,
        evaluate_every=5000,
        keep="last",
    )
