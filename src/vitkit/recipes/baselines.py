"""Baselines of the ViT paper: pre-training of ResNets (BiT) and Axial-ViTs with the settings of Table 3.

JFT-300M is not public. Use another source with `--data`, or read the recipes as configurations.
"""

from dataclasses import replace

from vitkit import models
from vitkit.recipes import Recipe, vit
from vitkit.training import Run

#: Recipe, model, learning rate, epochs, and ImageNet-1k top-1 accuracy after fine-tuning (Table 6).
#: Table 3 has no row for ResNet200x3: its learning rate is that of the ResNets with 152 layers.
#: ResNet152x2 reaches 85.56 % with 14 epochs.
RESNETS = (
    ("r50x1_jft", "R50x1", 1e-3, 7, "77.54"),
    ("r50x2_jft", "R50x2", 1e-3, 7, "82.12"),
    ("r101x1_jft", "R101x1", 8e-4, 7, "80.67"),
    ("r152x1_jft", "R152x1", 6e-4, 7, "81.88"),
    ("r152x2_jft", "R152x2", 6e-4, 7, "84.97"),
    ("r200x3_jft", "R200x3", 6e-4, 14, "87.22"),
)

#: Recipe and model.
AXIAL = (("axial_b32_jft", "Axial-ViT-B/32"), ("axial_b16_jft", "Axial-ViT-B/16"))


def _resnet(name: str, size: str, rate: float, epochs: int) -> Run:
    return replace(vit.jft(name, "vit-b/16", rate, epochs), model=models.preset(size, num_classes=vit.JFT))


def _axial(name: str, size: str) -> Run:
    config = models.preset(size, num_classes=vit.JFT, activation="gelu_tanh")
    return replace(vit.jft(name, "vit-b/16", 8e-4, 7), model=replace(config, pre_logits=config.width))


RECIPES = tuple(
    Recipe(
        name=f"baselines.{name}",
        summary=f"{model.replace('R', 'ResNet')} (BiT) on JFT-300M, {epochs} epochs",
        base=_resnet,
        overrides={"size": f"bit-{model.lower()}", "rate": rate, "epochs": epochs},
        expected=f"{accuracy} % on ImageNet-1k after fine-tuning",
        source="ViT paper, Table 6",
        notes=vit.JFT_NOTES,
    )
    for name, model, rate, epochs, accuracy in RESNETS
) + tuple(
    Recipe(
        name=f"baselines.{name}",
        summary=f"{model} on JFT-300M, 7 epochs, with the learning rate of ViT-B",
        base=_axial,
        overrides={"size": model.lower()},
        source="ViT paper, Figure 13",
        notes=vit.JFT_NOTES,
    )
    for name, model in AXIAL
)
