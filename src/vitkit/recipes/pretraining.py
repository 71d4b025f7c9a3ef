"""Self-supervised pre-training: masked patch prediction, SimMIM, BEiT, MAE and DINO.

The recipes save the last model with an untrained head, which `vitkit finetune` replaces. During training the model is
evaluated by its 20 nearest neighbors. The ImageNet-1k recipes (`--data folder:...` or `--data parquet:...`) are for
many GPUs; none has been run to completion with vitkit, so their accuracies are the papers'. The CIFAR-10 recipes
(`--data parquet:...`) take minutes of one CPU core; `benchmarks/pretraining.py` evaluates them.
"""

import dataclasses
from typing import Any

from vitkit.data.augment import Augment
from vitkit.data.augment.crop import Crop
from vitkit.data.augment.photometric import Jitter
from vitkit.data.augment.views import ColorAugmentation
from vitkit.data.processor import IMAGENET_MEAN, IMAGENET_STD, Processor
from vitkit.models import preset, vit
from vitkit.objectives import beit, dino, mae, masked, simmim
from vitkit.recipes import Recipe
from vitkit.training import Data, Hardware, Run
from vitkit.training.optim import Optimizer
from vitkit.training.schedule import Schedule

#: Number of training images.
IMAGENET = 1_281_167

CIFAR10_NOTES = "Takes minutes of one CPU core."


def _dino_cifar10(name: str) -> Run:
    objective = dino.Config(
        outputs=1024,
        hidden=256,
        bottleneck=64,
        local_crops=2,
        local_size=(16, 16),
        local_scale=(0.1, 0.4),
        colors=ColorAugmentation(sigma=(0.1, 0.7)),
        epochs=100,
        momentum=0.97,
    )
    run = _cifar10(name, objective, steps=2400, patch_size=(8, 8), position_resize="bicubic_offset")
    optimizer = Optimizer(lr=1e-3, weight_decay=0.04, final_decay=0.4, clip=3.0, clip_by="tensor")
    return dataclasses.replace(run, optimizer=optimizer)


def _imagenet(name: str, **parts: Any) -> Run:
    common: dict[str, Any] = {
        "name": name,
        "data": Data(source="folder:imagenet"),
        "processor": Processor.crop(224, 0.875, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        "precision": "bfloat16",
        "evaluators": ("knn",),
        "metric": "knn.k20",
        "evaluate_every": 50_000,
        "select": "last",
        "hardware": Hardware(workers=8, save_every=5_000),
    }
    return Run(**(common | parts))


def _cifar10(
    name: str,
    objective: object,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    warmup: int = 100,
    steps: int = 2000,
    **changes: object,
) -> Run:
    # Objectives on patches do not train the class token, so the mean patch token represents the image.
    options: dict[str, Any] = {"init": "truncated", "patch_size": (4, 4), "pool": "gap", "depth": 4} | changes
    model = vit.Config(
        image_size=(32, 32),
        width=128,
        num_heads=4,
        mlp_width=512,
        num_classes=10,
        **options,
    )
    return Run(
        name=name,
        model=model,
        objective=objective,
        data=Data(source="parquet:cifar10"),
        processor=Processor.squash(32),
        augment=Augment(flip=True),
        optimizer=Optimizer(lr=2e-3, weight_decay=0.05, betas=betas),
        schedule=Schedule(warmup=warmup),
        batch_size=128,
        precision="bfloat16",
        steps=steps,
        evaluators=("knn",),
        metric="knn.k20",
        evaluate_every=steps,
        select="last",
        hardware=Hardware(save_every=500),
    )


def _on_imagenet(name: str, summary: str, *, expected: str, source: str, notes: str, **overrides: object) -> Recipe:
    return Recipe(
        f"pretraining.{name}", summary, _imagenet, overrides, expected, source, data="folder:imagenet", notes=notes
    )


def _on_cifar10(name: str, summary: str, *, notes: str = CIFAR10_NOTES, **overrides: object) -> Recipe:
    return Recipe(f"pretraining.{name}", summary, _cifar10, overrides, data="parquet:cifar10", notes=notes)


RECIPES = (
    _on_imagenet(
        "masked_b16_imagenet",
        "Masked patch prediction with ViT-B/16: 3-bit mean colors of half of the patches",
        expected="79.9 % on ImageNet-1k after fine-tuning, 2 points above training from scratch",
        source="ViT paper, appendix B.1.2",
        notes="The paper trains on JFT-300M for 1 M steps and reports that 100,000 steps, or ImageNet, give nearly the "
        "same result. The appendix does not give the weight decay; it is that of the paper's supervised pre-training.",
        model=preset("vit-b/16"),
        objective=masked.Config(),
        processor=Processor.squash(224),
        augment=Augment(crop=Crop(kind="tensorflow"), flip=True),
        optimizer=Optimizer(lr=2e-4, weight_decay=0.1, clip=None),
        schedule=Schedule(warmup=10_000),
        batch_size=4096,
        steps=100_000,
    ),
    _on_imagenet(
        "simmim_b16_imagenet",
        "SimMIM with ViT-B/16, 60 % of the 32-pixel squares masked",
        expected="83.8 % on ImageNet-1k after fine-tuning",
        source="Xie et al. 2022",
        notes="The original divides the learning rate by ten after epoch 700; here it follows a cosine.",
        model=preset("beit-b/16-pt", num_classes=1000, stochastic_depth=0.1),
        objective=simmim.Config(),
        augment=Augment(crop=Crop(kind="torchvision", area=(0.67, 1.0)), flip=True),
        optimizer=Optimizer(lr=4e-4, weight_decay=0.05, clip=5.0),
        schedule=Schedule(warmup=10 * IMAGENET // 2048),
        batch_size=2048,
        epochs=800.0,
    ),
    _on_imagenet(
        "beit_b16_imagenet",
        "BEiT with ViT-B/16, the masks of BEiT v2, and 8192 visual tokens learned during training",
        expected="83.2 % on ImageNet-1k after fine-tuning",
        source="Bao et al. 2021",
        notes="The published accuracy is with DALL-E's tokenizer; with this small tokenizer it was not measured. The "
        "tokenizer is trained for 8 epochs, within the warm-up of 10.",
        model=preset("beit-b/16-pt", num_classes=1000, stochastic_depth=0.1),
        objective=beit.Config(codes=8192, hidden=256, tokenizer_fraction=0.01, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        augment=Augment(
            crop=Crop(kind="torchvision"), flip=True, jitter=Jitter(brightness=0.4, contrast=0.4, saturation=0.4)
        ),
        optimizer=Optimizer(lr=1.5e-3, weight_decay=0.05, clip=3.0),
        schedule=Schedule(warmup=10 * IMAGENET // 2048),
        batch_size=2048,
        epochs=800.0,
    ),
    _on_imagenet(
        "mae_b16_imagenet",
        "MAE with ViT-B/16, three quarters of the patches masked, pixels normalized per patch",
        expected="83.6 % on ImageNet-1k after fine-tuning",
        source="He et al. 2021, Table 8",
        notes="The published accuracy is after 1600 epochs; the recipe has the 800 epochs of the published command.",
        model=preset("mae-b/16", num_classes=1000),
        objective=mae.Config(),
        augment=Augment(crop=Crop(kind="torchvision", area=(0.2, 1.0)), flip=True),
        optimizer=Optimizer(lr=1.5e-4 * 4096 / 256, weight_decay=0.05, betas=(0.9, 0.95), clip=None),
        schedule=Schedule(warmup=40 * IMAGENET // 4096),
        batch_size=4096,
        epochs=800.0,
    ),
    _on_imagenet(
        "dino_s16_imagenet",
        "DINO with ViT-S/16, the published command for 300 epochs",
        expected="73.3 % by 20 nearest neighbors",
        source="Caron et al. 2021",
        notes="Unlike the original, tokens and position embeddings have no weight decay, and the views are crops of "
        "224-pixel images.",
        model=preset("dino-s/16", num_classes=1000, stochastic_depth=0.1),
        objective=dino.Config(
            fixed_norm=False,
            colors=ColorAugmentation(mean=IMAGENET_MEAN, std=IMAGENET_STD),
            epochs=300,
            teacher_temperatures=(0.04, 0.07),
            temperature_epochs=30,
        ),
        optimizer=Optimizer(lr=5e-4 * 1024 / 256, weight_decay=0.04, final_decay=0.4, clip=3.0, clip_by="tensor"),
        schedule=Schedule(warmup=10 * IMAGENET // 1024),
        batch_size=1024,
        epochs=300.0,
    ),
    _on_cifar10(
        "masked_cifar10",
        "Masked patch prediction on CIFAR-10 with a ViT of 0.8 M parameters and 4-pixel patches",
        objective=masked.Config(),
        steps=3600,
    ),
    _on_cifar10(
        "simmim_cifar10",
        "SimMIM on CIFAR-10 with masked squares of 8 pixels, four patches each",
        objective=simmim.Config(unit=8),
    ),
    _on_cifar10(
        "beit_cifar10",
        "BEiT on CIFAR-10: 8-pixel patches, half of them masked; 256 visual tokens",
        objective=beit.Config(codes=256, mask_ratio=0.5, smallest=1),
        warmup=1000,
        steps=8000,
        patch_size=(8, 8),
        depth=6,
        notes=f"The tokenizer is trained during the first tenth of the run. {CIFAR10_NOTES}",
    ),
    _on_cifar10(
        "mae_cifar10",
        "MAE on CIFAR-10: the encoder sees 16 of 64 patches, which makes it the fastest of these recipes",
        objective=mae.Config(decoder_width=64, decoder_depth=1, decoder_heads=2),
        init="mae",
        betas=(0.9, 0.95),
        steps=4000,
    ),
    Recipe(
        name="pretraining.dino_cifar10",
        summary="DINO on CIFAR-10: 8-pixel patches, views of 32 and 16 pixels, 1024 prototypes, almost no blur",
        base=_dino_cifar10,
        data="parquet:cifar10",
        notes="The momentum of the teacher is 0.97, an average over 33 steps, because it must suit the number of "
        "steps. With 0.996, an average over 250 steps, the teacher of a run of a few thousand steps stays close to its "
        f"random initialization; the student learns that, and the loss ends at log K with `kl` 0. {CIFAR10_NOTES}",
    ),
)
