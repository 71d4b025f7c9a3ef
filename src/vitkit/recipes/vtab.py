"""VTAB-1k: 19 tasks with 1000 training images each (Zhai et al. 2020).

The data source of a task is `vtab:TASK` (`vitkit.data.sources.vtab`). Hyper-parameters are chosen by training on 800
images and evaluating on 200; the model is then trained on all 1000 and evaluated once on the full test set. The score
of a task is its top-1 accuracy. The score of a group, or of the benchmark, is the mean over tasks. `PUBLISHED` are the
ViT paper's results (Table 9), in percent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vitkit import models
from vitkit.config import nearest
from vitkit.data.augment import Augment
from vitkit.data.augment.presets import inception
from vitkit.data.processor import Processor
from vitkit.data.sources import vtab
from vitkit.objectives import supervised
from vitkit.recipes import Recipe
from vitkit.training import Data, Run, train
from vitkit.training.optim import Optimizer
from vitkit.training.schedule import Schedule

GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(name for name, task in vtab.TASKS.items() if task.group == group)
    for group in ("natural", "specialised", "structured")
}
TASKS: tuple[str, ...] = tuple(vtab.TASKS)


def _row(text: str) -> dict[str, float]:
    return dict(zip(TASKS, map(float, text.split()), strict=True))


PUBLISHED: dict[str, dict[str, float]] = {
    "ViT-H/14 (JFT)": _row(
        "95.3 85.5 75.2 99.7 97.2 65.0 88.9 83.3 96.7 91.4 76.6 91.7 63.8 53.1 79.4 63.3 84.5 33.2 51.2"
    ),
    "ViT-L/16 (JFT)": _row(
        "95.4 81.9 74.3 99.7 96.7 63.5 87.4 83.6 96.5 89.7 77.1 86.4 63.1 49.7 74.5 60.5 82.2 36.2 51.1"
    ),
    "ViT-L/16 (I21k)": _row(
        "90.8 84.1 74.1 99.3 92.7 61.0 80.9 82.5 95.6 85.2 75.3 70.3 56.1 41.9 74.7 64.9 79.9 30.5 41.7"
    ),
}


def averages(scores: Mapping[str, float]) -> dict[str, float]:
    """Returns the mean accuracy of each group of tasks, and of all 19 tasks as `mean`.

    Raises ValueError for an unknown and for a missing task.
    """
    unknown = [task for task in scores if task not in TASKS]
    if unknown:
        raise ValueError(f"VTAB has no task '{unknown[0]}'{nearest(unknown[0], TASKS)}")
    missing = [task for task in TASKS if task not in scores]
    if missing:
        raise ValueError(
            f"the VTAB score is the mean of {len(TASKS)} tasks; scores are missing for {', '.join(missing)}"
        )
    means = {group: sum(scores[task] for task in tasks) / len(tasks) for group, tasks in GROUPS.items()}
    return {**means, "mean": sum(scores[task] for task in TASKS) / len(TASKS)}


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
    """Fine-tunes on all 19 tasks of VTAB-1k, and returns the accuracies, the group means and the overall mean.

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
        run, task_folder, trials = replace(_run(f"vtab.{task}", task), init_from=start), Path(folder) / task, {}
        for rate in rates if len(rates) > 1 else ():
            trial = replace(_with_rate(run, rate), data=Data(source=f"vtab:{task}:tune{suffix}"))
            trials[rate] = train(trial, task_folder / f"rate-{rate:g}").score
        best = max(trials, key=lambda rate: trials[rate]) if trials else rates[0]
        final = replace(_with_rate(run, best), data=Data(source=f"vtab:{task}{suffix}"))
        scores[task] = train(final, task_folder / "final").score
    return {**scores, **averages(scores)}


def _with_rate(run: Run, rate: float) -> Run:
    return replace(run, optimizer=replace(run.optimizer, lr=rate))


def _run(name: str, task: str) -> Run:
    model = models.preset("vit-l/16", image_size=384, num_classes=vtab.TASKS[task].classes, norm_eps=1e-12)
    return Run(
        name=name,
        model=model,
        objective=supervised.Config(),
        data=Data(source=f"vtab:{task}"),
        processor=Processor.squash(384),
        augment=Augment(crop=inception("tensorflow"), flip=True),
        optimizer=Optimizer(name="sgd", lr=0.01, weight_decay=0.0),
        schedule=Schedule(decay="cosine", warmup=500),
        batch_size=512,
        grad_accum_steps=16,
        steps=2_500,
        evaluate_every=2_500,
        init_from=START,
        select="last",
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
