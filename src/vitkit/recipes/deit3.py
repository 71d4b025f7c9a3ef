"""DeiT III: plain ViTs trained on ImageNet-1k and ImageNet-21k (Touvron et al. 2022).

"DeiT III: Revenge of the ViT". LAMB, a sigmoid loss on ImageNet-1k, one of three color augmentations, LayerScale and
strong stochastic depth. Large models are trained at a low resolution and then fine-tuned at higher ones with AdamW.
A recipe that continues another one starts from `runs/deit3.OTHER/best` in the working directory. Use `--init-from FILE`
to start from an official checkpoint.

The settings are those of the authors' commands. The accuracies are from their logs and tables, at the training size;
they report none for ImageNet-21k itself. There are two differences. The learning rate changes every step, rises from 0
and follows a cosine that begins after the warm-up; in the original it changes every epoch, rises from 1e-6 and follows
a cosine that begins with the run. H/14 is trained at 154 and 126 pixels, which are multiples of the patch size; the
original takes 160 and 128, and its patch projection drops the remainder. No recipe of this file has been run to
completion with vitkit.
"""

from dataclasses import replace

from vitkit.data.augment import Augment
from vitkit.data.augment.crop import Crop
from vitkit.data.augment.erasing import Erasing
from vitkit.data.augment.mixing import Mixing
from vitkit.data.augment.presets import deit, deit3
from vitkit.data.processor import IMAGENET_MEAN, IMAGENET_STD, Processor
from vitkit.models import preset
from vitkit.objectives import supervised
from vitkit.recipes import Recipe
from vitkit.training import Data, Hardware, Run
from vitkit.training.optim import Optimizer
from vitkit.training.schedule import Schedule

#: Number of training images.
IMAGENET, IMAGENET_21K = 1_281_167, 14_197_122
CLASSES_21K = 21_841
#: Final learning rate.
FLOOR = 1e-5

#: Recipe, model, image size, learning rate, stochastic depth and top-1 accuracy: 800 epochs on ImageNet-1k.
FROM_SCRATCH = (
    ("s16_imagenet", "S/16", 224, 4e-3, 0.05, "81.4"),
    ("b16_imagenet", "B/16", 192, 3e-3, 0.2, "82.9"),
    ("l16_imagenet", "L/16", 192, 3e-3, 0.45, "84.1"),
    ("h14_imagenet", "H/14", 154, 3e-3, 0.6, "83.5"),
)

#: Recipe, model, image size, stochastic depth, recipe to start from and top-1 accuracy: 20 epochs of fine-tuning.
HIGHER_RESOLUTION = (
    ("b16_224", "B/16", 224, 0.2, "b16_imagenet", "83.8"),
    ("l16_224", "L/16", 224, 0.45, "l16_imagenet", "84.9"),
    ("h14_224", "H/14", 224, 0.55, "h14_imagenet", "85.2"),
    ("s16_384", "S/16", 384, 0.0, "s16_imagenet", "83.4"),
    ("b16_384", "B/16", 384, 0.15, "b16_224", "85.0"),
    ("l16_384", "L/16", 384, 0.4, "l16_224", "85.8"),
)

#: Recipe, model, image size, epochs, stochastic depth, and the recipe that continues on ImageNet-1k.
ON_IMAGENET_21K = (
    ("s16_imagenet21k", "S/16", 224, 240, 0.05, "s16_from21k"),
    ("b16_imagenet21k", "B/16", 224, 240, 0.1, "b16_from21k"),
    ("l16_imagenet21k", "L/16", 224, 240, 0.3, "l16_from21k"),
    ("h14_imagenet21k", "H/14", 126, 90, 0.5, "h14_from21k"),
)

#: Recipe, model, stochastic depth, recipe to start from and top-1 accuracy: 50 epochs on ImageNet-1k at 224 pixels.
FROM_IMAGENET_21K = (
    ("s16_from21k", "S/16", 0.05, "s16_imagenet21k", "83.1"),
    ("b16_from21k", "B/16", 0.15, "b16_imagenet21k", "85.7"),
    ("l16_from21k", "L/16", 0.4, "l16_imagenet21k", "87.0"),
    ("h14_from21k", "H/14", 0.45, "h14_imagenet21k", "87.2"),
)


def _from_scratch(name: str, size: str, image: int, rate: float, depth: float) -> Run:
    run = _run(name, size, image, depth=depth, num_images=IMAGENET, batch_size=2048, epochs=800)
    loss = supervised.Config(loss="sigmoid", binarize_targets=True, average="elements")
    return replace(_lamb(run, rate, 0.05), objective=loss, augment=deit3())


def _higher_resolution(name: str, size: str, image: int, depth: float, start: str) -> Run:
    run = _run(name, size, image, depth=depth, num_images=IMAGENET, batch_size=512, epochs=20)
    augment = replace(deit(repeats=1), erasing=Erasing())
    optimizer = Optimizer(lr=FLOOR, weight_decay=0.1, clip=None)
    # The peak of the learning rate equals its final value, so it is constant after the warm-up.
    schedule = replace(run.schedule, decay="constant")
    checkpoint = f"runs/deit3.{start}/best"
    return replace(
        run, augment=augment, optimizer=optimizer, schedule=schedule, init_from=checkpoint, init_head="checkpoint"
    )


def _imagenet21k(name: str, size: str, image: int, epochs: int, depth: float) -> Run:
    run = _run(name, size, image, depth=depth, num_images=IMAGENET_21K, batch_size=2048, epochs=epochs)
    model = replace(run.model, num_classes=CLASSES_21K)
    return replace(_lamb(run, 1e-3, 0.02), model=model, augment=_simple_crop(image))


def _from_imagenet21k(name: str, size: str, depth: float, start: str) -> Run:
    run = _run(name, size, 224, depth=depth, num_images=IMAGENET, batch_size=2048, epochs=50)
    checkpoint = f"runs/deit3.{start}/best"
    return replace(_lamb(run, 3e-4, 0.02), augment=_simple_crop(224), init_from=checkpoint, init_head="random")


def _simple_crop(image: int) -> Augment:
    """Returns the augmentation of DeiT III, but with padded random crops, CutMix only and no repeated augmentation."""
    crop = Crop(kind="simple", short_side=image, padding=4)
    return replace(deit3(), crop=crop, mixing=Mixing(cutmix=1.0), repeats=1)


def _lamb(run: Run, rate: float, decay: float) -> Run:
    # apex's LAMB clips the gradient norm to 1 by default.
    optimizer = Optimizer(name="lamb", lr=rate, weight_decay=decay, clip=1.0)
    return replace(run, optimizer=optimizer, schedule=replace(run.schedule, end=FLOOR / rate))


def _run(name: str, size: str, image: int, *, depth: float, num_images: int, batch_size: int, epochs: int) -> Run:
    return Run(
        name=name,
        model=preset(f"deit3-{size}".lower(), image_size=image, num_classes=1000, stochastic_depth=depth),
        objective=supervised.Config(label_smoothing=0.1),
        data=Data(source="", held_out=0.01),
        processor=Processor.crop(image, 1.0, interpolation="bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD),
        schedule=Schedule(decay="cosine", warmup=5 * num_images // batch_size),
        batch_size=batch_size,
        epochs=epochs,
        precision="bfloat16",
        evaluate_every=5_000,
        select="last",
        hardware=Hardware(workers=8, save_every=5_000),
    )


RECIPES = (
    *(
        Recipe(
            name=f"deit3.{name}",
            summary=f"DeiT III-{size} on ImageNet-1k, 800 epochs at {image} pixels",
            base=_from_scratch,
            overrides={"size": size, "image": image, "rate": rate, "depth": depth},
            expected=f"{accuracy} % top-1",
            data="parquet:/data/imagenet",
        )
        for name, size, image, rate, depth, accuracy in FROM_SCRATCH
    ),
    *(
        Recipe(
            name=f"deit3.{name}",
            summary=f"DeiT III-{size} fine-tuned at {image} pixels after `deit3.{start}`, 20 epochs on ImageNet-1k",
            base=_higher_resolution,
            overrides={"size": size, "image": image, "depth": depth, "start": start},
            expected=f"{accuracy} % top-1",
            data="parquet:/data/imagenet",
        )
        for name, size, image, depth, start, accuracy in HIGHER_RESOLUTION
    ),
    *(
        Recipe(
            name=f"deit3.{name}",
            summary=f"DeiT III-{size} on ImageNet-21k, {epochs} epochs at {image} pixels, before `deit3.{after}`",
            base=_imagenet21k,
            overrides={"size": size, "image": image, "epochs": epochs, "depth": depth},
            data="webdataset:/data/imagenet21k",
        )
        for name, size, image, epochs, depth, after in ON_IMAGENET_21K
    ),
    *(
        Recipe(
            name=f"deit3.{name}",
            summary=f"DeiT III-{size} on ImageNet-1k after `deit3.{start}`, 50 epochs at 224 pixels",
            base=_from_imagenet21k,
            overrides={"size": size, "depth": depth, "start": start},
            expected=f"{accuracy} % top-1",
            data="parquet:/data/imagenet",
        )
        for name, size, depth, start, accuracy in FROM_IMAGENET_21K
    ),
)
