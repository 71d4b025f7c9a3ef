"""What the ViT paper compares its models with: ResNets (BiT) and Axial-ViTs, pre-trained on JFT-300M as in Table 3.

JFT-300M is not public: each takes `--data`, and the recipes stand as configurations.
"""

from dataclasses import replace
from typing import Any

from vitkit import models
from vitkit.recipes import vit
from vitkit.train import Run


def r50x1_jft() -> Run:
    """ResNet50x1 (BiT) on JFT-300M, 7 epochs: 77.54 % on ImageNet after fine-tuning (ViT paper, Table 6).

    `vitkit train baselines.r50x1_jft --data SOURCE`, as a configuration; time not measured here.
    """
    return _resnet("r50x1_jft", "bit-r50x1", rate=1e-3, epochs=7)


def r50x2_jft() -> Run:
    """ResNet50x2 (BiT) on JFT-300M, 7 epochs: 82.12 % on ImageNet after fine-tuning (ViT paper, Table 6).

    `vitkit train baselines.r50x2_jft --data SOURCE`, as a configuration; time not measured here.
    """
    return _resnet("r50x2_jft", "bit-r50x2", rate=1e-3, epochs=7)


def r101x1_jft() -> Run:
    """ResNet101x1 (BiT) on JFT-300M, 7 epochs: 80.67 % on ImageNet after fine-tuning (ViT paper, Table 6).

    `vitkit train baselines.r101x1_jft --data SOURCE`, as a configuration; time not measured here.
    """
    return _resnet("r101x1_jft", "bit-r101x1", rate=8e-4, epochs=7)


def r152x1_jft() -> Run:
    """ResNet152x1 (BiT) on JFT-300M, 7 epochs: 81.88 % on ImageNet after fine-tuning (ViT paper, Table 6).

    `vitkit train baselines.r152x1_jft --data SOURCE`, as a configuration; time not measured here.
    """
    return _resnet("r152x1_jft", "bit-r152x1", rate=6e-4, epochs=7)


def r152x2_jft() -> Run:
    """ResNet152x2 (BiT) on JFT-300M, 7 epochs: 84.97 % on ImageNet after fine-tuning, 85.56 % with 14 (Table 6).

    `vitkit train baselines.r152x2_jft --data SOURCE`, as a configuration; time not measured here.
    """
    return _resnet("r152x2_jft", "bit-r152x2", rate=6e-4, epochs=7)


def r200x3_jft() -> Run:
    """ResNet200x3 (BiT) on JFT-300M, 14 epochs: 87.22 % on ImageNet after fine-tuning (ViT paper, Table 6).

    `vitkit train baselines.r200x3_jft --data SOURCE`, as a configuration; time not measured here. The paper's Table 3
    has no row for it: the rate is that of the ResNets of 152 layers.
    """
    return _resnet("r200x3_jft", "bit-r200x3", rate=6e-4, epochs=14)


def axial_b32_jft() -> Run:
    """Axial-ViT-B/32 on JFT-300M, 7 epochs, with the rate of ViT-B (ViT paper, Figure 13). JFT is not public.

    `vitkit train baselines.axial_b32_jft --data SOURCE`, as a configuration; time not measured here.
    """
    return _axial("axial_b32_jft", "axial-vit-b/32")


def axial_b16_jft() -> Run:
    """Axial-ViT-B/16 on JFT-300M, 7 epochs, with the rate of ViT-B (ViT paper, Figure 13). JFT is not public.

    `vitkit train baselines.axial_b16_jft --data SOURCE`, as a configuration; time not measured here.
    """
    return _axial("axial_b16_jft", "axial-vit-b/16")


def _resnet(name: str, preset: str, *, rate: float, epochs: int) -> Run:
    return _like_vit(name, models.preset(preset, num_classes=vit.JFT), rate=rate, epochs=epochs)


def _axial(name: str, preset: str) -> Run:
    config = models.preset(preset, num_classes=vit.JFT, activation="gelu_tanh")
    return _like_vit(name, replace(config, pre_logits=config.width), rate=8e-4, epochs=7)


def _like_vit(name: str, model: Any, *, rate: float, epochs: int) -> Run:
    """All that the rows of Table 3 share is ViT-B/16's."""
    run = vit.b16_jft()
    optimizer = replace(run.optimizer, rate=rate)
    return replace(run, name=f"baselines.{name}", model=model, optimizer=optimizer, epochs=epochs)
