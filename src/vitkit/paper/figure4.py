"""Figure 4 of the ViT paper: few-shot accuracy against the number of pre-training images (section 4.3)."""

from collections.abc import Mapping

from vitkit.explanation import Curve, Curves
from vitkit.models import bit
from vitkit.paper import Experiment, Findings, Table, _commands
from vitkit.paper._comparison import SHOT, caveat
from vitkit.paper._significance import compare
from vitkit.paper.small_scale import Outcome, SmallScale, Variant, raw

STEPS = 200
FRACTIONS = (0.05, 0.2, 1.0)


def _full() -> tuple[str, ...]:
    lines = []
    for recipe in (
        "vit.b32_jft",
        "vit.b16_jft",
        "vit.l32_jft",
        "vit.l16_jft",
        "baselines.r50x1_jft",
        "baselines.r152x2_jft",
    ):
        for fraction, millions in ((0.03, 9), (0.1, 30), (0.3, 90), (1.0, 300)):
            out = f"runs/figure4_{recipe.partition('.')[2]}_{millions}m"
            data = _commands.JFT if fraction == 1.0 else f"part:fraction={fraction}@{_commands.JFT}"
            lines += [_commands.pretrain(recipe, data, out=out), _commands.fewshot(f"{out}/best")]
    return tuple(lines)


EXPERIMENT = Experiment(
    title="Figure 4: few-shot accuracy against pre-training size",
    section="section 4.3",
    shows="5-shot accuracy on ImageNet of ViTs and ResNets pre-trained on 9, 30, 90 and 300 million images of JFT: "
    "ResNets are better with few images, ViTs with many.",
    published=Table(
        ("images", "result (curves without numbers)"),
        (
            ("9 million", "ResNets are better; ViT-B/32 is well below an equally fast ResNet-50"),
            ("90 million and more", "ViTs are better, and still improve at 300 million"),
        ),
    ),
    full=_full(),
    needs=_commands.NEEDS_JFT,
    small="Two ViTs and a ResNet, trained with the same number of steps on nested subsets of half of the classes.",
    minutes=3,
)


def models_of(small: SmallScale) -> dict[str, Variant]:
    """Returns the model variants by name: a small ViT, a larger ViT and a ResNet."""
    size = (small.side, small.side)
    return {
        "ViT, small": Variant(small.vit(width=32, num_heads=2, mlp_width=64, depth=2)),
        "ViT, larger": Variant(small.vit()),
        "ResNet": Variant(bit.Config(image_size=size, depths=(1, 1, 1), stem_width=8, num_groups=4)),
    }


def pretrain(small: SmallScale, steps: int) -> dict[float, list[Outcome]]:
    """Pre-trains every model on each fraction of the images."""
    outcomes = {}
    for fraction in FRACTIONS:
        data = small.upstream if fraction == 1.0 else small.part(small.upstream, f"fraction={fraction}")
        named = {f"{name}, {fraction:.0%}": variant for name, variant in models_of(small).items()}
        outcomes[fraction] = small.sweep(named, steps, data=data)
    return outcomes


def plot(title: str, lines: Mapping[str, list[tuple[float, float, float]]], y_label: str) -> Curves:
    """Returns a plot of accuracy against the fraction of pre-training images, with one line per model."""
    curves = [
        Curve(name, *(tuple(column) for column in zip(*points, strict=True)))  # type: ignore[arg-type]
        for name, points in lines.items()
    ]
    return Curves(title, "fraction of the pre-training images", y_label, tuple(curves), log_x=True)


def study(small: SmallScale) -> Findings:
    """Pre-trains every model on each fraction of the images, and compares the models at each fraction."""
    results = pretrain(small, STEPS)
    rows, lines, remarks = [], {}, []
    for fraction, outcomes in results.items():
        trials = [each.fewshot for each in outcomes]
        rows.append((f"{fraction:.0%}", *(trial.percent for trial in trials)))
        for name, trial in zip(models_of(small), trials, strict=True):
            lines.setdefault(name, []).append((fraction, 100 * trial.mean, 100 * trial.deviation))
        remarks += compare(trials[::-1], f"5-shot accuracy with {fraction:.0%} of the images")
    return Findings(
        table=Table(("fraction of images", *(f"{name}: {SHOT}" for name in models_of(small))), tuple(rows)),
        drawings={"": plot("Figure 4: 5-shot accuracy against pre-training size, at small scale", lines, SHOT)},
        remarks=(*remarks, caveat(small)),
        numbers={f"{fraction:g}": raw(outcomes) for fraction, outcomes in results.items()},
    )
