"""Figure 3 of the ViT paper: ImageNet accuracy after fine-tuning, by pre-training dataset (section 4.3)."""

from pathlib import Path

from vitkit.paper import Experiment, Findings, Table, _commands, figure4
from vitkit.paper._comparison import caveat
from vitkit.paper._significance import Trial, compare
from vitkit.paper.small_scale import SmallScale, slug

STEPS, TUNING = 200, 60
LABELLED = 10
BETTER = "fine-tuned on the other classes (%)"


def _full() -> tuple[str, ...]:
    lines = []
    for data, source in (
        ("imagenet", _commands.IMAGENET),
        ("imagenet21k", _commands.IMAGENET_21K),
        ("jft", _commands.JFT),
    ):
        for size in ("b32", "b16", "l32", "l16"):
            out = f"runs/vit.{size}_{data}"
            lines.append(_commands.pretrain(f"vit.{size}_{data}", source))
            lines.append(_commands.finetune(f"{out}/best", _commands.IMAGENET, f"{out}_ft", steps=20_000, lr=0.03))
    return tuple(lines)


EXPERIMENT = Experiment(
    title="Figure 3: transfer to ImageNet against pre-training data",
    section="section 4.3",
    shows="ImageNet accuracy after fine-tuning of ViTs pre-trained on ImageNet, ImageNet-21k and JFT-300M: large "
    "models are below small ones with ImageNet, and gain the most from larger datasets.",
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
    small=f"Pre-training on 5, 20 and 100 % of half of the classes, then fine-tuning on {LABELLED} images of each of "
    "the other classes and evaluation on the rest of their images.",
    minutes=3.5,
)


def tuned(small: SmallScale, name: str, starts: tuple[Path, ...], steps: int = TUNING) -> Trial:
    """Fine-tunes the checkpoint of each seed on a few images per class, and returns the accuracies."""
    data = small.part(small.downstream, f"number={LABELLED}")
    results = [
        small.finetune(slug(f"{name}-tuned"), start, data=data, seed=seed, steps=small.length(steps))
        for seed, start in enumerate(starts)
    ]
    return Trial(name, tuple(result.score for result in results))


def study(small: SmallScale) -> Findings:
    """Fine-tunes the models of Figure 4 of the ViT paper, which are pre-trained on fractions of the images."""
    names = list(figure4.models_of(small))
    rows, lines, remarks, numbers = [], {}, [], {}
    for fraction, outcomes in figure4.pretrain(small, STEPS).items():
        trials = [tuned(small, each.name, each.folders) for each in outcomes]
        rows.append((f"{fraction:.0%}", *(trial.percent for trial in trials)))
        for name, trial in zip(names, trials, strict=True):
            lines.setdefault(name, []).append((fraction, 100 * trial.mean, 100 * trial.deviation))
            numbers[f"{name}, {fraction:g}"] = trial.values
        remarks += compare(trials[::-1], f"Accuracy after pre-training on {fraction:.0%}")
    title = "Figure 3: accuracy after fine-tuning against pre-training size, at small scale"
    return Findings(
        table=Table(("fraction of images", *(f"{name}: {BETTER}" for name in names)), tuple(rows)),
        drawings={"": figure4.plot(title, lines, BETTER)},
        remarks=(*remarks, caveat(small)),
        numbers=numbers,
    )
