"""AugReg: pre-training of ViTs with an augmentation strength for each model size (Steiner et al. 2022).

"How to train your ViT? Data, Augmentation, and Regularization in Vision Transformers". The settings are those of
big_vision's configs, which the authors recommend after their search; the accuracies are from Table 3 of the paper.
"""

from vitkit import models
from vitkit.data.augment.presets import augreg
from vitkit.data.processor import Processor
from vitkit.objectives import supervised
from vitkit.recipes import Recipe
from vitkit.training import Data, Run
from vitkit.training.optim import Optimizer
from vitkit.training.schedule import Schedule

SOURCE = "Steiner et al. 2022, Table 3"

#: Recipe, model, augmentation strength, and the best top-1 accuracy at 224 pixels without fine-tuning.
IMAGENET = (
    ("ti16_imagenet", "ViT-Ti/16", "light1", "72.59"),
    ("s32_imagenet", "ViT-S/32", "medium1", "72.07"),
    ("s16_imagenet", "ViT-S/16", "medium2", "79.00"),
    ("b32_imagenet", "ViT-B/32", "medium2", "74.42"),
    ("b16_imagenet", "ViT-B/16", "medium2", "79.84"),
    ("l16_imagenet", "ViT-L/16", "medium2", "75.72"),
)

#: Recipe, model, augmentation strength, and ImageNet-1k top-1 accuracy after fine-tuning at 224 and at 384 pixels.
IMAGENET_21K = (
    ("ti16_imagenet21k", "ViT-Ti/16", "none", "73.75", "78.22"),
    ("s32_imagenet21k", "ViT-S/32", "none", "73.47", "79.58"),
    ("s16_imagenet21k", "ViT-S/16", "light1", "80.46", "83.73"),
    ("b32_imagenet21k", "ViT-B/32", "light2", "79.13", "83.59"),
    ("b16_imagenet21k", "ViT-B/16", "light2", "83.96", "85.49"),
    ("l16_imagenet21k", "ViT-L/16", "medium2", "83.98", "85.59"),
)


def _imagenet(name: str, size: str, strength: str) -> Run:
    config = models.preset(size, num_classes=1000, activation="gelu_tanh")
    model = models.preset(size, num_classes=1000, activation="gelu_tanh", pre_logits=config.width)
    return _run(name, model, strength, head_bias=-6.9)


def _imagenet21k(name: str, size: str, strength: str) -> Run:
    model = models.preset(size, num_classes=21_843, activation="gelu_tanh", class_token=False, pool="gap")
    return _run(name, model, strength, head_bias=-10.0)


def _run(name: str, model: object, strength: str, *, head_bias: float) -> Run:
    return Run(
        name=name,
        model=model,
        objective=supervised.Config(loss="sigmoid", head_bias=head_bias),
        data=Data(source="", held_out=0.01),
        processor=Processor.crop(224, 7 / 8, interpolation="box"),
        augment=augreg(strength),
        optimizer=Optimizer(lr=1e-3, weight_decay=1e-4, decay="schedule"),
        schedule=Schedule(decay="cosine", warmup=10_000),
        batch_size=4096,
        epochs=300,
        evaluate_every=5000,
        select="last",
    )


RECIPES = tuple(
    Recipe(
        name=f"augreg.{name}",
        summary=f"{model} on ImageNet-1k, 300 epochs, augmentation {strength}",
        base=_imagenet,
        overrides={"size": model.lower(), "strength": strength},
        expected=f"{accuracy} % top-1 at 224 without fine-tuning, the best of the paper",
        source=SOURCE,
        data="parquet:/data/imagenet",
    )
    for name, model, strength, accuracy in IMAGENET
) + tuple(
    Recipe(
        name=f"augreg.{name}",
        summary=f"{model} on ImageNet-21k, 300 epochs, augmentation {strength}",
        base=_imagenet21k,
        overrides={"size": model.lower(), "strength": strength},
        expected=f"{at_224} % on ImageNet-1k after fine-tuning at 224, {at_384} % at 384",
        source=SOURCE,
        data="webdataset:/data/imagenet21k",
    )
    for name, model, strength, at_224, at_384 in IMAGENET_21K
)
