"""Table 4 of the ViT paper: hyperparameters of fine-tuning, compared with the recipes of vitkit."""

from operator import attrgetter

from vitkit.paper import Experiment, Findings, Table
from vitkit.paper.small_scale import SmallScale
from vitkit.recipes import recipe
from vitkit.training import Run

# Steps and the learning rates of the sweep.
PUBLISHED: dict[str, tuple[int, tuple[float, ...]]] = {
    "imagenet": (20_000, (0.003, 0.01, 0.03, 0.06)),
    "cifar100": (10_000, (0.001, 0.003, 0.01, 0.03)),
    "cifar10": (10_000, (0.001, 0.003, 0.01, 0.03)),
    "pets": (500, (0.001, 0.003, 0.01, 0.03)),
    "flowers": (500, (0.001, 0.003, 0.01, 0.03)),
    "vtab": (2_500, (0.01,)),
}
SHARED: dict[str, object] = {
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 0.0,
    "optimizer.clip": 1.0,
    "schedule.decay": "cosine",
    "batch_size": 512,
    "model.image_size": (384, 384),
}

EXPERIMENT = Experiment(
    title="Table 4: fine-tuning hyper-parameters",
    section="appendix B.1.1",
    shows="Steps and learning rates for every dataset; SGD with momentum 0.9, batch size 512, cosine schedule, no "
    "weight decay, gradients clipped to 1, 384 pixels.",
    published=Table(
        ("dataset", "steps", "learning rates"),
        tuple((name, steps, ", ".join(map(str, rates))) for name, (steps, rates) in PUBLISHED.items()),
    ),
    full=tuple(f"vitkit recipes transfer.{name}" for name in PUBLISHED),
    needs="",
    small="Our recipes, compared with the published rows field by field; the same at both scales.",
    minutes=0.1,
)


def study(small: SmallScale) -> Findings:
    """Compares every fine-tuning recipe with its row in Table 4 of the ViT paper."""
    rows, differing = [], []
    for name, (steps, rates) in PUBLISHED.items():
        run = recipe(f"transfer.{name}")
        differ = [f"{field} {_read(run, field)}" for field, value in SHARED.items() if _read(run, field) != value]
        differ += [f"steps {run.steps}"] if run.steps != steps else []
        differ += [f"rate {run.optimizer.lr}"] if run.optimizer.lr not in rates else []
        differing += [f"transfer.{name}: {', '.join(differ)}"] if differ else []
        published = ", ".join(map(str, rates))
        rows.append((f"transfer.{name}", run.steps, run.optimizer.lr, published, ", ".join(differ) or "none"))
    return Findings(
        table=Table(("recipe", "steps", "learning rate", "published learning rates", "differences"), tuple(rows)),
        remarks=(f"Recipes that differ: {'; '.join(differing) or 'none'}.",),
        numbers={str(row[0]): row[1:3] for row in rows},
    )


def _read(run: Run, name: str) -> object:
    return attrgetter(name)(run)
