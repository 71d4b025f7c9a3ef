"""Recipes without labels: masked patch prediction, SimMIM, BEiT, MAE and DINO, as published and for CIFAR-10.

They keep the last model, whose head has learned nothing: `vitkit finetune` puts a new one in its place. On the way it
is judged by its 20 nearest neighbours. The published ones are for the pictures of ImageNet-1k (`--data folder:...`,
`--data parquet:...`) and for many GPUs; nobody has run them to the end with vitkit yet, so their figures are the
papers'. The CIFAR-10 ones take `--data parquet:...` and minutes of one core; `benchmarks/pretraining.py` judges them.
"""

import dataclasses
from typing import Any

from vitkit.data.augment import Augment
from vitkit.data.augment.crop import Crop
from vitkit.data.augment.photometric import Jitter
from vitkit.data.augment.views import Colours
from vitkit.data.processor import IMAGENET_MEAN, IMAGENET_STD, Processor
from vitkit.models import preset, vit
from vitkit.objectives import beit, dino, mae, masked, simmim
from vitkit.train import Data, Machine, Run
from vitkit.train.optim import Optimizer
from vitkit.train.schedule import Schedule

IMAGENET = 1_281_167


def masked_b16_imagenet() -> Run:
    """ViT-B/16 guessing the 3-bit mean colours of half its patches (ViT paper, appendix B.1.2).

    `vitkit train pretraining.masked_b16_imagenet --data folder:imagenet`, or
    `train(recipe("pretraining.masked_b16_imagenet"), "runs/masked")` in Python. The paper: on JFT for 1 M steps, of
    which 100 k are nearly enough, as is ImageNet; 79.9 % on ImageNet after fine-tuning, 2 % more than from scratch.
    The weight decay is not in the appendix: it is that of the paper's other pre-training.
    """
    return _imagenet(
        "masked_b16_imagenet",
        model=preset("vit-b/16"),
        objective=masked.Config(),
        processor=Processor.squash(224),
        augment=Augment(crop=Crop(kind="tensorflow"), flip=True),
        optimizer=Optimizer(rate=2e-4, weight_decay=0.1, clip=None),
        schedule=Schedule(warmup=10_000),
        batch_size=4096,
        steps=100_000,
    )


def simmim_b16_imagenet() -> Run:
    """SimMIM's ViT-B/16, 60 % of squares of 32 pixels masked (Xie et al. 2022).

    `vitkit train pretraining.simmim_b16_imagenet --data folder:imagenet`, or
    `train(recipe("pretraining.simmim_b16_imagenet"), "runs/simmim")` in Python. The paper: 83.8 % after fine-tuning.
    The original lowers the rate tenfold after epoch 700; here it is a cosine.
    """
    return _imagenet(
        "simmim_b16_imagenet",
        model=preset("beit-b/16-pt", num_classes=1000, stochastic_depth=0.1),
        objective=simmim.Config(),
        augment=Augment(crop=Crop(kind="torchvision", area=(0.67, 1.0)), flip=True),
        optimizer=Optimizer(rate=4e-4, weight_decay=0.05, clip=5.0),
        schedule=Schedule(warmup=10 * IMAGENET // 2048),
        batch_size=2048,
        epochs=800.0,
    )


def beit_b16_imagenet() -> Run:
    """BEiT's ViT-B/16 with the masks of its second version, over 8192 words that are learned on the spot.

    `vitkit train pretraining.beit_b16_imagenet --data folder:imagenet`, or
    `train(recipe("pretraining.beit_b16_imagenet"), "runs/beit")` in Python. Bao et al. 2021: 83.2 % after fine-tuning,
    with DALL-E's tokenizer; what this small one comes to is not known. The tokenizer learns for 8 epochs, within the
    warm-up of 10.
    """
    return _imagenet(
        "beit_b16_imagenet",
        model=preset("beit-b/16-pt", num_classes=1000, stochastic_depth=0.1),
        objective=beit.Config(codes=8192, hidden=256, tokenizer_share=0.01, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        augment=Augment(
            crop=Crop(kind="torchvision"), flip=True, jitter=Jitter(brightness=0.4, contrast=0.4, saturation=0.4)
        ),
        optimizer=Optimizer(rate=1.5e-3, weight_decay=0.05, clip=3.0),
        schedule=Schedule(warmup=10 * IMAGENET // 2048),
        batch_size=2048,
        epochs=800.0,
    )


def mae_b16_imagenet() -> Run:
    """MAE's ViT-B/16, three quarters of the patches masked, pixels normalised by patch (He et al. 2021, table 8).

    `vitkit train pretraining.mae_b16_imagenet --data folder:imagenet`, or
    `train(recipe("pretraining.mae_b16_imagenet"), "runs/mae")` in Python. The paper: 83.6 % after fine-tuning, with
    1600 epochs; these are the 800 of its published command.
    """
    return _imagenet(
        "mae_b16_imagenet",
        model=preset("mae-b/16", num_classes=1000),
        objective=mae.Config(),
        augment=Augment(crop=Crop(kind="torchvision", area=(0.2, 1.0)), flip=True),
        optimizer=Optimizer(rate=1.5e-4 * 4096 / 256, weight_decay=0.05, betas=(0.9, 0.95), clip=None),
        schedule=Schedule(warmup=40 * IMAGENET // 4096),
        batch_size=4096,
        epochs=800.0,
    )


def dino_s16_imagenet() -> Run:
    """DINO's ViT-S/16, the published command for 300 epochs (Caron et al. 2021).

    `vitkit train pretraining.dino_s16_imagenet --data folder:imagenet`, or
    `train(recipe("pretraining.dino_s16_imagenet"), "runs/dino")` in Python. The paper's code: 73.3 % by 20 neighbours.
    Unlike there, tokens and positions have no weight decay, and views are cut from pictures of 224 pixels.
    """
    return _imagenet(
        "dino_s16_imagenet",
        model=preset("dino-s/16", num_classes=1000, stochastic_depth=0.1),
        objective=dino.Config(
            fixed_norm=False,
            colours=Colours(mean=IMAGENET_MEAN, std=IMAGENET_STD),
            epochs=300,
            teacher_temperatures=(0.04, 0.07),
            temperature_epochs=30,
        ),
        optimizer=Optimizer(rate=5e-4 * 1024 / 256, weight_decay=0.04, final_decay=0.4, clip=3.0, clip_by="tensor"),
        schedule=Schedule(warmup=10 * IMAGENET // 1024),
        batch_size=1024,
        epochs=300.0,
    )


def masked_cifar10() -> Run:
    """Masked patch prediction on CIFAR-10 with a ViT of 0.8 M parameters and patches of 4 pixels.

    `vitkit train pretraining.masked_cifar10 --data parquet:cifar10`, or
    `train(recipe("pretraining.masked_cifar10"), "runs/masked-cifar10")` in Python.
    """
    return _cifar10("masked_cifar10", masked.Config(), steps=3600)


def simmim_cifar10() -> Run:
    """SimMIM on CIFAR-10: squares of 8 pixels, four patches each.

    `vitkit train pretraining.simmim_cifar10 --data parquet:cifar10`, or
    `train(recipe("pretraining.simmim_cifar10"), "runs/simmim-cifar10")` in Python.
    """
    return _cifar10("simmim_cifar10", simmim.Config(unit=8))


def beit_cifar10() -> Run:
    """BEiT on CIFAR-10: patches of 8 pixels, half of them masked; 256 words, learned in the first tenth of the run.

    `vitkit train pretraining.beit_cifar10 --data parquet:cifar10`, or
    `train(recipe("pretraining.beit_cifar10"), "runs/beit-cifar10")` in Python.
    """
    objective = beit.Config(codes=256, masked=0.5, smallest=1)
    return _cifar10("beit_cifar10", objective, warmup=1000, steps=8000, patch_size=(8, 8), depth=6)


def mae_cifar10() -> Run:
    """MAE on CIFAR-10: 16 of 64 patches are seen, so it is the fastest of them.

    `vitkit train pretraining.mae_cifar10 --data parquet:cifar10`, or
    `train(recipe("pretraining.mae_cifar10"), "runs/mae-cifar10")` in Python.
    """
    objective = mae.Config(decoder_width=64, decoder_depth=1, decoder_heads=2)
    return _cifar10("mae_cifar10", objective, init="mae", betas=(0.9, 0.95), steps=4000)


def dino_cifar10() -> Run:
    """DINO on CIFAR-10: patches of 8 pixels, views of 32 and 16, 1024 prototypes, no blur worth the name.

    `vitkit train pretraining.dino_cifar10 --data parquet:cifar10`, or
    `train(recipe("pretraining.dino_cifar10"), "runs/dino-cifar10")` in Python. The teacher's momentum must be counted
    in steps: 0.996 is a memory of 250, which in a run of some thousand is a teacher that stays what it was, random;
    the student then learns that, and the loss ends at log K with `kl` 0. Here it is 0.97, a memory of 33 steps.
    """
    objective = dino.Config(
        outputs=1024,
        hidden=256,
        bottleneck=64,
        local_crops=2,
        local_size=(16, 16),
        local_scale=(0.1, 0.4),
        colours=Colours(sigma=(0.1, 0.7)),
        epochs=100,
        momentum=0.97,
    )
    run = _cifar10("dino_cifar10", objective, steps=2400, patch_size=(8, 8), position_resize="bicubic_offset")
    optimizer = Optimizer(rate=1e-3, weight_decay=0.04, final_decay=0.4, clip=3.0, clip_by="tensor")
    return dataclasses.replace(run, optimizer=optimizer)


def _imagenet(name: str, **parts: Any) -> Run:
    usual: dict[str, Any] = {
        "name": f"pretraining.{name}",
        "data": Data(source="folder:imagenet"),
        "processor": Processor.crop(224, 0.875, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        "precision": "bfloat16",
        "evaluators": ("knn",),
        "score": "knn.k20",
        "evaluate_every": 50_000,
        "keep": "last",
        "machine": Machine(workers=8, save_every=5_000),
    }
    return Run(**(usual | parts))


def _cifar10(
    name: str,
    objective: Any,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    warmup: int = 100,
    steps: int = 2000,
    **changes: Any,
) -> Run:
    # Objectives of patches teach the class token nothing: what represents a picture is the mean of its patches.
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
        name=f"pretraining.{name}",
        model=model,
        objective=objective,
        data=Data(source="parquet:cifar10"),
        processor=Processor.squash(32),
        augment=Augment(flip=True),
        optimizer=Optimizer(rate=2e-3, weight_decay=0.05, betas=betas),
        schedule=Schedule(warmup=warmup),
        batch_size=128,
        precision="bfloat16",
        steps=steps,
        evaluators=("knn",),
        score="knn.k20",
        evaluate_every=steps,
        keep="last",
        machine=Machine(save_every=500),
    )
