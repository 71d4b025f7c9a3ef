"""Table 4: the settings of fine-tuning, ours beside the published."""

from typing import Any

from vitkit.paper import Exhibit, Findings, Table
from vitkit.paper.small import Small
from vitkit.recipes import recipe

# Steps, and the rates that were tried.
PUBLISHED: dict[str, tuple[int, tuple[float, ...]]] = {
    "imagenet": (20_000, (0.003, 0.01, 0.03, 0.06)),
    "cifar100": (10_000, (0.001, 0.003, 0.01, 0.03)),
    "cifar10": (10_000, (0.001, 0.003, 0.01, 0.03)),
    "pets": (500, (0.001, 0.003, 0.01, 0.03)),
    "flowers": (500, (0.001, 0.003, 0.01, 0.03)),
    "vtab": (2_500, (0.01,)),
}
SHARED: dict[str, Any] = {
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 0.0,
    "optimizer.clip": 1.0,
    "schedule.decay": "cosine",
    "batch_size": 512,
    "model.image_size": (384, 384),
}

EXHIBIT = Exhibit(
    title="Table 4: settings of fine-tuning",
    section="appendix B.1.1",
    shows="Steps and learning rates for every data set; SGD with momentum 0.9, batches of 512, cosine, no weight "
    "decay, gradients clipped to 1, 384 pixels.",
    published=Table(
        ("data set", "steps", "learning rates"),
        tuple((name, steps, ", ".join(map(str, rates))) for name, (steps, rates) in PUBLISHED.items()),
    ),
    full=tuple(f"vitkit recipes transfer.{name}" for name in PUBLISHED),
    needs="",
    small="Our recipes, field by field beside the published rows; the same at both scales.",
    minutes=0.1,
)


def study(small: Small) -> Findings:
    """Every recipe, and where it differs."""
    rows, differing = [], []
    for name, (steps, rates) in PUBLISHED.items():
        run = recipe(f"transfer.{name}")
        differ = [f"{field} {_read(run, field)}" for field, value in SHARED.items() if _read(run, field) != value]
        differ += [f"steps {run.steps}"] if run.steps != steps else []
        differ += [f"rate {run.optimizer.rate}"] if run.optimizer.rate not in rates else []
        differing += [f"transfer.{name}: {', '.join(differ)}"] if differ else []
        tried = ", ".join(map(str, rates))
        rows.append((f"transfer.{name}", run.steps, run.optimizer.rate, tried, ", ".join(differ) or "none"))
    return Findings(
        table=Table(("recipe", "steps", "rate", "published rates", "differs from published in"), tuple(rows)),
        remarks=(f"Recipes that differ: {'; '.join(differing) or 'none'}.",),
        numbers={str(row[0]): row[1:3] for row in rows},
    )


def _read(run: Any, name: str) -> Any:
    for part in name.split("."):
        run = getattr(run, part)
    return run
