"""VTAB-1k: 19 tasks with 1000 training images each (Zhai et al. 2020).

The data source of a task is `vtab:TASK` (`vitkit.data.sources.vtab`). Hyper-parameters are chosen by training on 800
images and evaluating on 200; the model is then trained on all 1000 and evaluated once on the full test set. The score
of a task is its top-1 accuracy. The score of a group, or of the benchmark, is the mean over tasks. `PUBLISHED` are the
ViT paper's results (Table 9), in percent.
"""

from collections.abc import Mapping

from vitkit.config import nearest
from vitkit.data.sources import vtab

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
    """Returns the mean score of each group and of all 19 tasks (`mean`).

    Raises ValueError for an unknown and for a missing task.
    """
    unknown = [task for task in scores if task not in TASKS]
    if unknown:
        raise ValueError(f"VTAB has no task '{unknown[0]}'{nearest(unknown[0], TASKS)}")
    missing = [task for task in TASKS if task not in scores]
    if missing:
        raise ValueError(f"VTAB is the mean of {len(TASKS)} tasks; scores are missing for {', '.join(missing)}")
    means = {group: sum(scores[task] for task in tasks) / len(tasks) for group, tasks in GROUPS.items()}
    return {**means, "mean": sum(scores[task] for task in TASKS) / len(TASKS)}
