"""ViT pre-training as in Table 3 of the ViT paper, and as in "Better plain ViT baselines for ImageNet-1k".

JFT-300M is not public. Use another source with `--data`, or read the recipes as configurations.
"""

from dataclasses import replace

from vitkit import models
from vitkit.data.augment import Augment
from vitkit.data.augment.presets import augreg, inception
from vitkit.data.processor import Processor
from vitkit.objectives import supervised
from vitkit.recipes import Recipe
from vitkit.training import Data, Run
from vitkit.training.optim import Optimizer
from vitkit.training.schedule import Schedule

#: Number of classes.
IMAGENET, IMAGENET_21K, JFT = 1000, 21_843, 18_291

ISSUE = "vision_transformer issue 62"
PAPER = "ViT paper, {}"
JFT_NOTES = "JFT-300M is not public. Training time was not measured."

#: Recipe, epochs and ImageNet-1k top-1 accuracy of the better plain ViT-S/16.
PLAIN = (("s16_imagenet", 90, "76.5"), ("s16_imagenet_150", 150, "78.5"), ("s16_imagenet_300", 300, "80.0"))

#: Recipe, model, ImageNet-1k top-1 accuracy and source.
FROM_SCRATCH = (
    ("b32_imagenet", "ViT-B/32", "69.19 % at 224", ISSUE),
    ("b16_imagenet", "ViT-B/16", "74.79 % at 224, 77.91 % after fine-tuning at 384", PAPER.format("Table 5")),
    ("l32_imagenet", "ViT-L/32", "66.90 % at 224", ISSUE),
    ("l16_imagenet", "ViT-L/16", "72.59 % at 224", ISSUE),
)

#: Recipe, model, precision at 1 on ImageNet-21k (from the issue), accuracy after fine-tuning and its source.
#: Table 3 has no row for ViT-H/14 on ImageNet-21k: its settings are those of ViT-L.
ON_IMAGENET_21K = (
    ("b32_imagenet21k", "ViT-B/32", "44.04", ", 81.28 % on ImageNet-1k after fine-tuning", "; ViT paper, Table 5"),
    ("b16_imagenet21k", "ViT-B/16", "47.88", "", ""),
    ("l32_imagenet21k", "ViT-L/32", "45.42", "", ""),
    (
        "l16_imagenet21k",
        "ViT-L/16",
        "49.90",
        ", 85.30 % on ImageNet-1k after fine-tuning at 512",
        "; ViT paper, Table 2",
    ),
    ("h14_imagenet21k", "ViT-H/14", "49.06", ", 85.13 % on ImageNet-1k after fine-tuning", "; ViT paper, Table 5"),
)

#: Recipe, model, learning rate, epochs, ImageNet-1k accuracy after fine-tuning, and its source.
#: The paper also reports ViT-L/16 after 7 epochs: `--set epochs=7`.
ON_JFT = (
    ("b32_jft", "ViT-B/32", 8e-4, 7, "80.73 % on ImageNet-1k after fine-tuning", "Table 5"),
    ("b16_jft", "ViT-B/16", 8e-4, 7, "84.15 % on ImageNet-1k after fine-tuning", "Table 5"),
    ("l32_jft", "ViT-L/32", 6e-4, 7, "", "Tables 3 and 5"),
    ("l16_jft", "ViT-L/16", 4e-4, 14, "87.76 % on ImageNet-1k after fine-tuning at 512", "Table 2"),
    ("h14_jft", "ViT-H/14", 3e-4, 14, "88.55 % on ImageNet-1k after fine-tuning at 518", "Table 2"),
    ("r50_b32_jft", "R50+ViT-B/32", 8e-4, 7, "", "Tables 3 and 6"),
    ("r50_b16_jft", "R50+ViT-B/16", 8e-4, 7, "", "Tables 3 and 6"),
    ("r50_l32_jft", "R50+ViT-L/32", 2e-4, 7, "", "Tables 3 and 6"),
    ("r50_l16_jft", "R50+ViT-L/16", 4e-4, 14, "", "Tables 3 and 6"),
)


def jft(name: str, size: str, rate: float, epochs: int) -> Run:
    """Returns the config of a run that pre-trains on JFT-300M with a sigmoid loss (ViT paper, Table 3)."""
    loss = supervised.Config(loss="sigmoid", head_bias=-10.0)
    run = _pretraining(name, _model(size, JFT, 0.0), loss, rate=rate, decay=0.1)
    return replace(run, epochs=epochs, optimizer=replace(run.optimizer, clip=None))


def _imagenet21k(name: str, size: str) -> Run:
    loss = supervised.Config(loss="sigmoid", head_bias=-10.0)
    run = _pretraining(name, _model(size, IMAGENET_21K, 0.1), loss, rate=1e-3, decay=0.03)
    return replace(run, epochs=90, optimizer=replace(run.optimizer, clip=None))


def _imagenet(name: str, size: str) -> Run:
    # The paper does not name the loss; softmax is the loss of its fine-tuning.
    run = _pretraining(name, _model(size, IMAGENET, 0.1), supervised.Config(), rate=3e-3, decay=0.3)
    return replace(run, schedule=Schedule(decay="cosine", warmup=10_000), epochs=300)


def _model(size: str, classes: int, dropout: float) -> object:
    """Returns the config of a preset with the pre-logits layer (linear and tanh) of the ViT paper."""
    config = models.preset(size, num_classes=classes, activation="gelu_tanh", dropout=dropout)
    return replace(config, pre_logits=config.width)


def _pretraining(name: str, model: object, loss: supervised.Config, *, rate: float, decay: float) -> Run:
    """Returns the config of a run with the settings that all rows of Table 3 of the ViT paper share.

    The run has one epoch, which the caller replaces.
    """
    return Run(
        name=name,
        model=model,
        objective=loss,
        data=Data(source="", held_out=0.01),
        processor=Processor.squash(224),
        augment=Augment(crop=inception("tensorflow"), flip=True),
        optimizer=Optimizer(lr=rate, weight_decay=decay),
        schedule=Schedule(decay="linear", warmup=10_000, end=0.01),
        batch_size=4096,
        epochs=1,
        evaluate_every=5000,
        select="last",
    )


def _plain(name: str, epochs: float) -> Run:
    plain = {"class_token": False, "pool": "gap", "position": "sincos2d", "pre_logits": 384, "activation": "gelu_tanh"}
    return Run(
        name=name,
        model=models.preset("vit-s/16", num_classes=IMAGENET, **plain),
        objective=supervised.Config(),
        data=Data(source="", held_out=0.01),
        processor=Processor.crop(224, 7 / 8, interpolation="box"),
        augment=augreg("light2"),
        optimizer=Optimizer(lr=1e-3, weight_decay=1e-4, decay="schedule"),
        schedule=Schedule(decay="cosine", warmup=10_000),
        batch_size=1024,
        epochs=epochs,
        evaluate_every=5000,
        select="last",
    )


RECIPES = (
    *(
        Recipe(
            name=f"vit.{name}",
            summary=f"Better plain ViT-S/16 on ImageNet-1k, {epochs} epochs",
            base=_plain,
            overrides={"epochs": epochs},
            expected=f"{accuracy} % top-1",
            source="Beyer et al. 2022",
            data="parquet:/data/imagenet",
            notes="Training time was not measured; the paper reports 6 to 7 hours on a TPUv3-8 for 90 epochs.",
        )
        for name, epochs, accuracy in PLAIN
    ),
    *(
        Recipe(
            name=f"vit.{name}",
            summary=f"{model} from scratch on ImageNet-1k, 300 epochs",
            base=_imagenet,
            overrides={"size": model.lower()},
            expected=expected,
            source=source,
            data="parquet:/data/imagenet",
        )
        for name, model, expected, source in FROM_SCRATCH
    ),
    *(
        Recipe(
            name=f"vit.{name}",
            summary=f"{model} on ImageNet-21k, 90 epochs",
            base=_imagenet21k,
            overrides={"size": model.lower()},
            expected=f"{precision} % precision at 1{finetuned}",
            source=f"{ISSUE}{source}",
            data="webdataset:/data/imagenet21k",
        )
        for name, model, precision, finetuned, source in ON_IMAGENET_21K
    ),
    *(
        Recipe(
            name=f"vit.{name}",
            summary=f"{model} on JFT-300M, {epochs} epochs",
            base=jft,
            overrides={"size": model.lower(), "rate": rate, "epochs": epochs},
            expected=expected,
            source=PAPER.format(tables),
            notes=JFT_NOTES,
        )
        for name, model, rate, epochs, expected, tables in ON_JFT
    ),
)
