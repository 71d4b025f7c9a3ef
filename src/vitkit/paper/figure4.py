"""Figure 4: few-shot accuracy against the number of pictures pre-trained on (section 4.3)."""

from collections.abc import Mapping

from vitkit.explain import Curve, Curves
from vitkit.models import resnet
from vitkit.paper import Exhibit, Findings, Table, commands
from vitkit.paper.comparison import SHOT, differs
from vitkit.paper.small import Outcome, Small, Variant, raw
from vitkit.paper.spread import verdict

STEPS = 200
SHARES = (0.05, 0.2, 1.0)


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
        for share, millions in ((0.03, 9), (0.1, 30), (0.3, 90), (1.0, 300)):
            out = f"runs/figure4_{recipe.partition('.')[2]}_{millions}m"
            data = commands.JFT if share == 1.0 else f"part:share={share}@{commands.JFT}"
            lines += [commands.pretrain(recipe, data, out=out), commands.fewshot(f"{out}/best")]
    return tuple(lines)


EXHIBIT = Exhibit(
    title="Figure 4: few-shot accuracy against pre-training size",
    section="section 4.3",
    shows="5-shot accuracy on ImageNet of ViTs and ResNets pre-trained on 9, 30, 90 and 300 million pictures of JFT: "
    "ResNets are better on few, ViTs on many.",
    published=Table(
        ("pictures", "result (curves; no numbers are printed)"),
        (
            ("9 million", "ResNets ahead; ViT-B/32 well below an equally fast ResNet-50"),
            ("90 million and more", "ViTs ahead, and still rising at 300 million"),
        ),
    ),
    full=_full(),
    needs=commands.NEEDS_JFT,
    small="Nested shares of the pictures of half of the classes, as many steps on each; two ViTs and a ResNet.",
    minutes=3,
)


def models_of(small: Small) -> dict[str, Variant]:
    """A small and a larger ViT, and a ResNet."""
    size = (small.side, small.side)
    return {
        "ViT, small": Variant(small.vit(width=32, num_heads=2, mlp_width=64, depth=2)),
        "ViT, larger": Variant(small.vit()),
        "ResNet": Variant(resnet.Config(image_size=size, depths=(1, 1, 1), stem_width=8, num_groups=4)),
    }


def sized(small: Small, steps: int) -> dict[float, list[Outcome]]:
    """Every model pre-trained on each share."""
    found = {}
    for share in SHARES:
        data = small.upstream if share == 1.0 else small.part(small.upstream, f"share={share}")
        named = {f"{name}, {share:.0%}": variant for name, variant in models_of(small).items()}
        found[share] = small.sweep(named, steps, data=data)
    return found


def drawing(title: str, lines: Mapping[str, list[tuple[float, float, float]]], y_label: str) -> Curves:
    """A line a model: share of the pictures, mean, deviation."""
    curves = [
        Curve(name, *(tuple(column) for column in zip(*points, strict=True)))  # type: ignore[arg-type]
        for name, points in lines.items()
    ]
    return Curves(title, "share of the pre-training pictures", y_label, tuple(curves), log_x=True)


def study(small: Small) -> Findings:
    """Every model on every share, and per share the models against one another."""
    found = sized(small, STEPS)
    rows, lines, remarks = [], {}, []
    for share, outcomes in found.items():
        trials = [each.fewshot for each in outcomes]
        rows.append((f"{share:.0%}", *(trial.percent for trial in trials)))
        for name, trial in zip(models_of(small), trials, strict=True):
            lines.setdefault(name, []).append((share, 100 * trial.mean, 100 * trial.deviation))
        remarks += verdict(trials[::-1], f"5-shot accuracy on {share:.0%}")
    return Findings(
        table=Table(("share of pictures", *(f"{name}: {SHOT}" for name in models_of(small))), tuple(rows)),
        drawings={"": drawing("Figure 4: 5-shot accuracy against pre-training size, at small scale", lines, SHOT)},
        remarks=(*remarks, differs(small)),
        numbers={f"{share:g}": raw(outcomes) for share, outcomes in found.items()},
    )
