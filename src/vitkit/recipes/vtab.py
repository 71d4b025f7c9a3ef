"""VTAB-1k's 19 tasks as the ViT paper ran them: ViT-L/16 from ImageNet-21k, 1,000 training pictures each, Table 9.

One rate for all tasks, 2,500 steps of 512 pictures at 384 pixels (ViT paper, Table 4 and appendix B.1.1), judged once
on the whole test set. `vtab:TASK` are pictures from a public mirror, `vtab:TASK@SOURCE` the same from a source of your
own. `benchmark` runs all 19 and averages them by group. Times were not measured here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vitkit import models
from vitkit.data.augment import Augment
from vitkit.data.augment.presets import inception
from vitkit.data.processor import Processor
from vitkit.data.sources import vtab
from vitkit.evaluate.vtab import averages
from vitkit.objectives import supervised
from vitkit.train import Data, Run, train
from vitkit.train.optim import Optimizer
from vitkit.train.schedule import Schedule

START = "google/vit-large-patch16-224-in21k"


def benchmark(
    folder: str | Path,
    sources: Mapping[str, str] | None = None,
    *,
    start: str = START,
    rates: Sequence[float] = (0.01,),
) -> dict[str, float]:
    """Trains every task in a folder of its own; the 19 accuracies, the mean of each group, and the mean of all.

    `sources` say where the pictures of a task are, where not on the public mirror. Of several `rates` the one that is
    best on 200 pictures, after training on 800, is trained with on all 1,000 (Zhai et al. 2020). Runs that are over are
    not repeated. Raises ValueError for tasks that there are not.
    """
    given = dict(sources or {})
    unknown = [task for task in given if task not in vtab.TASKS]
    if unknown:
        raise ValueError(f"VTAB has no task '{unknown[0]}'; it has {', '.join(vtab.TASKS)}")
    scores = {}
    for task in vtab.TASKS:
        at = f"@{given[task]}" if task in given else ""
        run, place, tuned = replace(_task(task), start=start), Path(folder) / task, {}
        for rate in rates if len(rates) > 1 else ():
            trial = replace(_at(run, rate), data=Data(source=f"vtab:{task}:tune{at}"))
            tuned[rate] = train(trial, place / f"rate-{rate:g}").score
        best = max(tuned, key=lambda rate: tuned[rate]) if tuned else rates[0]
        scores[task] = train(replace(_at(run, best), data=Data(source=f"vtab:{task}{at}")), place / "final").score
    return {**scores, **averages(scores)}


def caltech101() -> Run:
    """Caltech-101, natural: 90.8 % (ViT-L/16 from ImageNet-21k, ViT paper, Table 9).

    `vitkit train vtab.caltech101 --data vtab:caltech101@folder:/data/caltech101`
    """
    return _task("caltech101")


def cifar100() -> Run:
    """CIFAR-100, natural: 84.1 % (ViT-L/16 from ImageNet-21k, ViT paper, Table 9).

    `vitkit train vtab.cifar100 --data vtab:cifar100@folder:/data/cifar100`
    """
    return _task("cifar100")


def dtd() -> Run:
    """Describable Textures, natural: 74.1 % (ViT-L/16 from ImageNet-21k, ViT paper, Table 9).

    `vitkit train vtab.dtd --data vtab:dtd@folder:/data/dtd`
    """
    return _task("dtd")


def flowers102() -> Run:
    """Flowers-102, natural: 99.3 % (ViT-L/16 from ImageNet-21k, ViT paper, Table 9).

    `vitkit train vtab.flowers102 --data vtab:flowers102@folder:/data/flowers102`
    """
    return _task("flowers102")


def pets() -> Run:
    """Oxford-IIIT Pets, natural: 92.7 % (ViT-L/16 from ImageNet-21k, ViT paper, Table 9).

    `vitkit train vtab.pets --data vtab:pets@folder:/data/pets`
    """
    return _task("pets")


def sun397() -> Run:
    """SUN397, natural: 61.0 % (ViT-L/16 from ImageNet-21k, ViT paper, Table 9).

    `vitkit train vtab.sun397 --data vtab:sun397@folder:/data/sun397`
    """
    return _task("sun397")


def svhn() -> Run:
    """Street View House Numbers, natural: 80.9 % (ViT-L/16 from ImageNet-21k, ViT paper, Table 9).

    `vitkit train vtab.svhn --data vtab:svhn@folder:/data/svhn`
    """
    return _task("svhn")


def camelyon() -> Run:
    """Patch Camelyon, specialised: 82.5 % (ViT-L/16 from ImageNet-21k, ViT paper, Table 9).

    `vitkit train vtab.camelyon --data vtab:camelyon@folder:/data/camelyon`
    """
    return _task("camelyon")


def eurosat() -> Run:
    """EuroSAT, specialised: 95.6 % (ViT-L/16 from ImageNet-21k, ViT paper, Table 9).

    `vitkit train vtab.eurosat --data vtab:eurosat@folder:/data/eurosat`
    """
    return _task("eurosat")


def resisc45() -> Run:
    """RESISC45, specialised: 85.2 % (ViT-L/16 from ImageNet-21k, ViT paper, Table 9).

    `vitkit train vtab.resisc45 --data vtab:resisc45@folder:/data/resisc45`
    """
    return _task("resisc45")


def retinopathy() -> Run:
    """Diabetic Retinopathy, specialised: 75.3 % (ViT-L/16 from ImageNet-21k, ViT paper, Table 9).

    `vitkit train vtab.retinopathy --data vtab:retinopathy@folder:/data/retinopathy`
    """
    return _task("retinopathy")


def clevr_count() -> Run:
    """CLEVR, counting, structured: 70.3 % (ViT-L/16 from ImageNet-21k, ViT paper, Table 9).

    `vitkit train vtab.clevr_count --data vtab:clevr_count@folder:/data/clevr_count`
    """
    return _task("clevr_count")


def clevr_distance() -> Run:
    """CLEVR, distance of the nearest object, structured: 56.1 % (ViT-L/16 from ImageNet-21k, ViT paper, Table 9).

    `vitkit train vtab.clevr_distance --data vtab:clevr_distance@folder:/data/clevr_distance`
    """
    return _task("clevr_distance")


def dmlab() -> Run:
    """DMLab frames, structured: 41.9 % (ViT-L/16 from ImageNet-21k, ViT paper, Table 9).

    `vitkit train vtab.dmlab --data vtab:dmlab@folder:/data/dmlab`
    """
    return _task("dmlab")


def dsprites_location() -> Run:
    """dSprites, place, structured: 74.7 % (ViT-L/16 from ImageNet-21k, ViT paper, Table 9).

    `vitkit train vtab.dsprites_location --data vtab:dsprites_location@folder:/data/dsprites_location`
    """
    return _task("dsprites_location")


def dsprites_orientation() -> Run:
    """dSprites, turn, structured: 64.9 % (ViT-L/16 from ImageNet-21k, ViT paper, Table 9).

    `vitkit train vtab.dsprites_orientation --data vtab:dsprites_orientation@folder:/data/dsprites_orientation`
    """
    return _task("dsprites_orientation")


def kitti_distance() -> Run:
    """KITTI, distance of the nearest vehicle, structured: 79.9 % (ViT-L/16 from ImageNet-21k, ViT paper, Table 9).

    `vitkit train vtab.kitti_distance --data vtab:kitti_distance@folder:/data/kitti_distance`
    """
    return _task("kitti_distance")


def smallnorb_azimuth() -> Run:
    """small NORB, azimuth, structured: 30.5 % (ViT-L/16 from ImageNet-21k, ViT paper, Table 9).

    `vitkit train vtab.smallnorb_azimuth --data vtab:smallnorb_azimuth@folder:/data/smallnorb_azimuth`
    """
    return _task("smallnorb_azimuth")


def smallnorb_elevation() -> Run:
    """small NORB, elevation, structured: 41.7 % (ViT-L/16 from ImageNet-21k, ViT paper, Table 9).

    `vitkit train vtab.smallnorb_elevation --data vtab:smallnorb_elevation@folder:/data/smallnorb_elevation`
    """
    return _task("smallnorb_elevation")


def _at(run: Run, rate: float) -> Run:
    return replace(run, optimizer=replace(run.optimizer, rate=rate))


def _task(task: str) -> Run:
    model = models.preset("vit-l/16", image_size=384, num_classes=vtab.TASKS[task].classes, norm_eps=1e-12)
    return Run(
        name=f"vtab.{task}",
        model=model,
        objective=supervised.Config(),
        data=Data(source=f"vtab:{task}"),
        processor=Processor.squash(384),
        augment=Augment(crop=inception("tensorflow"), flip=True),
        optimizer=Optimizer(name="sgd", rate=0.01, weight_decay=0.0),
        schedule=Schedule(decay="cosine", warmup=500),
        batch_size=512,
        accumulate=16,
        steps=2_500,
        evaluate_every=2_500,
        start=START,
        keep="last",
    )
