"""DeiT III: plain ViTs on ImageNet-1k and -21k by a simple recipe (Touvron et al. 2022, "Revenge of the ViT").

LAMB and, on ImageNet-1k, every class asked of by itself; one of three changes of colour, LayerScale and much stochastic
depth; large models learn on small pictures and are then shown larger ones, by AdamW. A recipe that goes on from another
looks for `runs/deit3.OTHER/best` where it is run; `--start FILE` takes an official file in its place.

Numbers are those of the authors' commands; accuracies are of their logs and tables, at the size of training (there is
none for ImageNet-21k itself). Here rates change every step, rise from 0 and fall to 1e-5 on a cosine that begins after
the warm-up; there they change every epoch, rise from 1e-6 and fall on a cosine that begins with the run. H/14 sees 154
and 126 pixels, which are whole patches: of its 160 and 128 the original's projection drops the rest. Nobody has run
them to the end with vitkit yet.
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
from vitkit.train import Data, Machine, Run
from vitkit.train.optim import Optimizer
from vitkit.train.schedule import Schedule

IMAGENET, IMAGENET_21K = 1_281_167, 14_197_122
CLASSES_21K = 21_841
FLOOR = 1e-5  # where rates end
PRESETS = {"s": "deit3-s/16", "b": "deit3-b/16", "l": "deit3-l/16", "h": "deit3-h/14"}


def s16_imagenet() -> Run:
    """DeiT III-S/16 on ImageNet-1k, 800 epochs at 224 pixels: 81.4 %.

    `vitkit train deit3.s16_imagenet --data parquet:/data/imagenet`; time not measured here.
    """
    return _first("s16_imagenet", "s", 224, rate=4e-3, depth=0.05)


def b16_imagenet() -> Run:
    """DeiT III-B/16 on ImageNet-1k, 800 epochs at 192 pixels: 82.9 %.

    `vitkit train deit3.b16_imagenet --data parquet:/data/imagenet`; time not measured here.
    """
    return _first("b16_imagenet", "b", 192, rate=3e-3, depth=0.2)


def l16_imagenet() -> Run:
    """DeiT III-L/16 on ImageNet-1k, 800 epochs at 192 pixels: 84.1 %.

    `vitkit train deit3.l16_imagenet --data parquet:/data/imagenet`; time not measured here.
    """
    return _first("l16_imagenet", "l", 192, rate=3e-3, depth=0.45)


def h14_imagenet() -> Run:
    """DeiT III-H/14 on ImageNet-1k, 800 epochs at 154 pixels: 83.5 %.

    `vitkit train deit3.h14_imagenet --data parquet:/data/imagenet`; time not measured here.
    """
    return _first("h14_imagenet", "h", 154, rate=3e-3, depth=0.6)


def b16_224() -> Run:
    """DeiT III-B/16 shown 224 pixels after `deit3.b16_imagenet`, 20 epochs: 83.8 %.

    `vitkit train deit3.b16_224 --data parquet:/data/imagenet`; time not measured here.
    """
    return _larger("b16_224", "b", 224, depth=0.2, start="b16_imagenet")


def l16_224() -> Run:
    """DeiT III-L/16 shown 224 pixels after `deit3.l16_imagenet`, 20 epochs: 84.9 %.

    `vitkit train deit3.l16_224 --data parquet:/data/imagenet`; time not measured here.
    """
    return _larger("l16_224", "l", 224, depth=0.45, start="l16_imagenet")


def h14_224() -> Run:
    """DeiT III-H/14 shown 224 pixels after `deit3.h14_imagenet`, 20 epochs: 85.2 %.

    `vitkit train deit3.h14_224 --data parquet:/data/imagenet`; time not measured here.
    """
    return _larger("h14_224", "h", 224, depth=0.55, start="h14_imagenet")


def s16_384() -> Run:
    """DeiT III-S/16 shown 384 pixels after `deit3.s16_imagenet`, 20 epochs: 83.4 %.

    `vitkit train deit3.s16_384 --data parquet:/data/imagenet`; time not measured here.
    """
    return _larger("s16_384", "s", 384, depth=0.0, start="s16_imagenet")


def b16_384() -> Run:
    """DeiT III-B/16 shown 384 pixels after `deit3.b16_224`, 20 epochs: 85.0 %.

    `vitkit train deit3.b16_384 --data parquet:/data/imagenet`; time not measured here.
    """
    return _larger("b16_384", "b", 384, depth=0.15, start="b16_224")


def l16_384() -> Run:
    """DeiT III-L/16 shown 384 pixels after `deit3.l16_224`, 20 epochs: 85.8 %.

    `vitkit train deit3.l16_384 --data parquet:/data/imagenet`; time not measured here.
    """
    return _larger("l16_384", "l", 384, depth=0.4, start="l16_224")


def s16_imagenet21k() -> Run:
    """DeiT III-S/16 on ImageNet-21k, 240 epochs at 224 pixels; `deit3.s16_from21k` goes on.

    `vitkit train deit3.s16_imagenet21k --data webdataset:/data/imagenet21k`; time not measured here.
    """
    return _imagenet21k("s16_imagenet21k", "s", 224, epochs=240, depth=0.05)


def b16_imagenet21k() -> Run:
    """DeiT III-B/16 on ImageNet-21k, 240 epochs at 224 pixels; `deit3.b16_from21k` goes on.

    `vitkit train deit3.b16_imagenet21k --data webdataset:/data/imagenet21k`; time not measured here.
    """
    return _imagenet21k("b16_imagenet21k", "b", 224, epochs=240, depth=0.1)


def l16_imagenet21k() -> Run:
    """DeiT III-L/16 on ImageNet-21k, 240 epochs at 224 pixels; `deit3.l16_from21k` goes on.

    `vitkit train deit3.l16_imagenet21k --data webdataset:/data/imagenet21k`; time not measured here.
    """
    return _imagenet21k("l16_imagenet21k", "l", 224, epochs=240, depth=0.3)


def h14_imagenet21k() -> Run:
    """DeiT III-H/14 on ImageNet-21k, 90 epochs at 126 pixels; `deit3.h14_from21k` goes on.

    `vitkit train deit3.h14_imagenet21k --data webdataset:/data/imagenet21k`; time not measured here.
    """
    return _imagenet21k("h14_imagenet21k", "h", 126, epochs=90, depth=0.5)


def s16_from21k() -> Run:
    """DeiT III-S/16 on ImageNet-1k after `deit3.s16_imagenet21k`, 50 epochs at 224 pixels: 83.1 %.

    `vitkit train deit3.s16_from21k --data parquet:/data/imagenet`; time not measured here.
    """
    return _from21k("s16_from21k", "s", depth=0.05, start="s16_imagenet21k")


def b16_from21k() -> Run:
    """DeiT III-B/16 on ImageNet-1k after `deit3.b16_imagenet21k`, 50 epochs at 224 pixels: 85.7 %.

    `vitkit train deit3.b16_from21k --data parquet:/data/imagenet`; time not measured here.
    """
    return _from21k("b16_from21k", "b", depth=0.15, start="b16_imagenet21k")


def l16_from21k() -> Run:
    """DeiT III-L/16 on ImageNet-1k after `deit3.l16_imagenet21k`, 50 epochs at 224 pixels: 87.0 %.

    `vitkit train deit3.l16_from21k --data parquet:/data/imagenet`; time not measured here.
    """
    return _from21k("l16_from21k", "l", depth=0.4, start="l16_imagenet21k")


def h14_from21k() -> Run:
    """DeiT III-H/14 on ImageNet-1k after `deit3.h14_imagenet21k`, 50 epochs at 224 pixels: 87.2 %.

    `vitkit train deit3.h14_from21k --data parquet:/data/imagenet`; time not measured here.
    """
    return _from21k("h14_from21k", "h", depth=0.45, start="h14_imagenet21k")


def _first(name: str, size: str, image: int, *, rate: float, depth: float) -> Run:
    run = _run(name, size, image, depth=depth, pictures=IMAGENET, batch_size=2048, epochs=800)
    asked = supervised.Config(loss="sigmoid", whole_targets=True, average="elements")
    return replace(_at(run, rate, 0.05), objective=asked, augment=deit3())


def _larger(name: str, size: str, image: int, *, depth: float, start: str) -> Run:
    run = _run(name, size, image, depth=depth, pictures=IMAGENET, batch_size=512, epochs=20)
    augment = replace(deit(repeats=1), erasing=Erasing())
    optimizer = Optimizer(rate=FLOOR, weight_decay=0.1, clip=None)
    # The floor of the rate is its peak: after the warm-up it stays.
    schedule = replace(run.schedule, decay="constant")
    before = f"runs/deit3.{start}/best"
    return replace(run, augment=augment, optimizer=optimizer, schedule=schedule, start=before, start_head="kept")


def _imagenet21k(name: str, size: str, image: int, *, epochs: int, depth: float) -> Run:
    run = _run(name, size, image, depth=depth, pictures=IMAGENET_21K, batch_size=2048, epochs=epochs)
    model = replace(run.model, num_classes=CLASSES_21K)
    return replace(_at(run, 1e-3, 0.02), model=model, augment=_simple(image))


def _from21k(name: str, size: str, *, depth: float, start: str) -> Run:
    run = _run(name, size, 224, depth=depth, pictures=IMAGENET, batch_size=2048, epochs=50)
    before = f"runs/deit3.{start}/best"
    return replace(_at(run, 3e-4, 0.02), augment=_simple(224), start=before, start_head="drawn")


def _simple(image: int) -> Augment:
    """As `deit3`, but a window out of the whole picture with 4 mirrored pixels around it, CutMix alone, no repeats."""
    crop = Crop(kind="simple", short_side=image, padding=4)
    return replace(deit3(), crop=crop, mixing=Mixing(cutmix=1.0), repeats=1)


def _at(run: Run, rate: float, decay: float) -> Run:
    # The clipping is that of apex's LAMB, which does it unasked.
    optimizer = Optimizer(name="lamb", rate=rate, weight_decay=decay, clip=1.0)
    return replace(run, optimizer=optimizer, schedule=replace(run.schedule, end=FLOOR / rate))


def _run(name: str, size: str, image: int, *, depth: float, pictures: int, batch_size: int, epochs: int) -> Run:
    return Run(
        name=f"deit3.{name}",
        model=preset(PRESETS[size], image_size=image, num_classes=1000, stochastic_depth=depth),
        objective=supervised.Config(label_smoothing=0.1),
        data=Data(source="", held_out=0.01),
        processor=Processor.crop(image, 1.0, interpolation="bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD),
        schedule=Schedule(decay="cosine", warmup=5 * pictures // batch_size),
        batch_size=batch_size,
        epochs=epochs,
        precision="bfloat16",
        evaluate_every=5_000,
        keep="last",
        machine=Machine(workers=8, save_every=5_000),
    )
