"""The 19 tasks of VTAB-1k with the settings of the ViT paper (ViT-L/16 from ImageNet-21k).

The same learning rate for all tasks, 2,500 steps with batch size 512 at 384 pixels (ViT paper, Table 4 and appendix
B.1.1), one evaluation on the full test set. `vtab:TASK` reads the images from a public mirror, `vtab:TASK@SOURCE` from
another source. `benchmark` trains all 19 tasks and averages the accuracies by group. Training time was not measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vitkit import models
from vitkit.data.augment import Augment
from vitkit.data.augment.presets import inception
from vitkit.data.processor import Processor
from vitkit.data.sources import vtab
from vitkit.evaluate.vtab import PUBLISHED, averages
from vitkit.objectives import supervised
from vitkit.recipes import Recipe
from vitkit.train import Data, Run, train
from vitkit.train.optim import Optimizer
from vitkit.train.schedule import Schedule

START = "google/vit-large-patch16-224-in21k"

#: Task and its title.
TITLES = {
    "caltech101": "Caltech-101",
    "cifar100": "CIFAR-100",
    "dtd": "Describable Textures",
    "flowers102": "Flowers-102",
    "pets": "Oxford-IIIT Pets",
    "sun397": "SUN397",
    "svhn": "Street View House Numbers",
    "camelyon": "Patch Camelyon",
    "eurosat": "EuroSAT",
    "resisc45": "RESISC45",
    "retinopathy": "Diabetic Retinopathy",
    "clevr_count": "CLEVR object count",
    "clevr_distance": "CLEVR distance to the nearest object",
    "dmlab": "DMLab frames",
    "dsprites_location": "dSprites location",
    "dsprites_orientation": "dSprites orientation",
    "kitti_distance": "KITTI distance to the nearest vehicle",
    "smallnorb_azimuth": "small NORB azimuth",
    "smallnorb_elevation": "small NORB elevation",
}


def benchmark(
    folder: str | Path,
    sources: Mapping[str, str] | None = None,
    *,
    start: str = START,
    rates: Sequence[float] = (0.01,),
) -> dict[str, float]:
    """Trains all 19 tasks and returns their accuracies, the group means and the overall mean.

    `sources` gives the data sources of tasks that are not read from the public mirror. With several `rates`, each is
    tried on 800 training images, and the one with the best accuracy on the other 200 is used to train on all 1,000
    (Zhai et al. 2020). Finished runs are not repeated. Raises ValueError for an unknown task.
    """
    sources = dict(sources or {})
    unknown = [task for task in sources if task not in vtab.TASKS]
    if unknown:
        raise ValueError(f"VTAB has no task '{unknown[0]}'; the tasks are {', '.join(vtab.TASKS)}")
    scores = {}
    for task in vtab.TASKS:
        suffix = f"@{sources[task]}" if task in sources else ""
        run, task_folder, trials = replace(_run(f"vtab.{task}", task), start=start), Path(folder) / task, {}
        for rate in rates if len(rates) > 1 else ():
            trial = replace(_with_rate(run, rate), data=Data(source=f"vtab:{task}:tune{suffix}"))
            trials[rate] = train(trial, task_folder / f"rate-{rate:g}").score
        best = max(trials, key=lambda rate: trials[rate]) if trials else rates[0]
        final = replace(_with_rate(run, best), data=Data(source=f"vtab:{task}{suffix}"))
        scores[task] = train(final, task_folder / "final").score
    return {**scores, **averages(scores)}


def _with_rate(run: Run, rate: float) -> Run:
    return replace(run, optimizer=replace(run.optimizer, rate=rate))


def _run(name: str, task: str) -> Run:
    model = models.preset("vit-l/16", image_size=384, num_classes=vtab.TASKS[task].classes, norm_eps=1e-12)
    return Run(
        name=name,
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


RECIPES = tuple(
    Recipe(
        name=f"vtab.{task}",
        summary=f"{title}, VTAB-1k {vtab.TASKS[task].group}",
        base=_run,
        overrides={"task": task},
        expected=f"{PUBLISHED['ViT-L/16 (I21k)'][task]} %",
        source="ViT-L/16 from ImageNet-21k, ViT paper, Table 9",
        data=f"vtab:{task}@folder:/data/{task}",
    )
    for task, title in TITLES.items()
)
