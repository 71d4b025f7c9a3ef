"""Figure 3: accuracy on ImageNet after fine-tuning against the data set pre-trained on (section 4.3)."""

from pathlib import Path

from vitkit.paper import Exhibit, Findings, Table, commands, figure4
from vitkit.paper.comparison import differs
from vitkit.paper.small import Small, slug
from vitkit.paper.spread import Trial, verdict

STEPS, TUNING = 200, 60
LABELLED = 10
BETTER = "fine-tuned on the other classes (%)"


def _full() -> tuple[str, ...]:
    lines = []
    for data, source in (
        ("imagenet", commands.IMAGENET),
        ("imagenet21k", commands.IMAGENET_21K),
        ("jft", commands.JFT),
    ):
        for size in ("b32", "b16", "l32", "l16"):
            out = f"runs/vit.{size}_{data}"
            lines.append(commands.pretrain(f"vit.{size}_{data}", source))
            lines.append(commands.finetune(f"{out}/best", commands.IMAGENET, f"{out}_ft", steps=20_000, rate=0.03))
    return tuple(lines)


EXHIBIT = Exhibit(
    title="Figure 3: transfer to ImageNet against pre-training data",
    section="section 4.3",
    shows="ImageNet accuracy after fine-tuning of ViTs pre-trained on ImageNet, ImageNet-21k and JFT-300M: large ones "
    "are below small ones on the first, and gain the most.",
    published=Table(
        ("model", "ImageNet (1.3 M)", "ImageNet-21k (14 M)", "JFT-300M (303 M)"),
        (
            ("ViT-B/32", 73.38, 81.28, 80.73),
            ("ViT-B/16", 77.91, 83.97, 84.15),
            ("ViT-L/32", 71.16, 80.99, 84.37),
            ("ViT-L/16", 76.53, 85.15, 87.12),
            ("ViT-H/14", None, 85.13, 88.04),
        ),
    ),
    full=_full(),
    needs="ImageNet, ImageNet-21k and JFT-300M (not public)",
    small=f"Pre-training on 5, 20 and 100 % of half of the classes, then fine-tuning on {LABELLED} pictures of each of "
    "the others, judged on the rest of them.",
    minutes=3.5,
)


def tuned(small: Small, name: str, starts: tuple[Path, ...], steps: int = TUNING) -> Trial:
    """The accuracy of each start after fine-tuning on the labelled few."""
    data = small.part(small.downstream, f"number={LABELLED}")
    results = [
        small.finetune(slug(f"{name}-tuned"), start, data=data, seed=seed, steps=small.length(steps))
        for seed, start in enumerate(starts)
    ]
    return Trial(name, tuple(result.score for result in results))


def study(small: Small) -> Findings:
    """Figure 4's models, fine-tuned."""
    names = list(figure4.models_of(small))
    rows, lines, remarks, numbers = [], {}, [], {}
    for share, outcomes in figure4.sized(small, STEPS).items():
        trials = [tuned(small, each.name, each.folders) for each in outcomes]
        rows.append((f"{share:.0%}", *(trial.percent for trial in trials)))
        for name, trial in zip(names, trials, strict=True):
            lines.setdefault(name, []).append((share, 100 * trial.mean, 100 * trial.deviation))
            numbers[f"{name}, {share:g}"] = trial.values
        remarks += verdict(trials[::-1], f"Accuracy after pre-training on {share:.0%}")
    title = "Figure 3: accuracy after fine-tuning against pre-training size, at small scale"
    return Findings(
        table=Table(("share of pictures", *(f"{name}: {BETTER}" for name in names)), tuple(rows)),
        drawings={"": figure4.drawing(title, lines, BETTER)},
        remarks=(*remarks, differs(small)),
        numbers=numbers,
    )
