"""Creates the results of a sweep over model variants: a table, plots of the accuracy and significance tests."""

from collections.abc import Mapping, Sequence

from vitkit.explanation import Curve, Curves
from vitkit.paper import Cell, Findings, Table
from vitkit.paper._significance import compare
from vitkit.paper.small_scale import Outcome, SmallScale, raw

SHOT = "5-shot, other classes (%)"
HELD_OUT = "held out, same classes (%)"
SCALE = "Our models have 0.1 million parameters and are pre-trained for seconds on a few images of half of the classes"

# Measured with the variants of Table 8: three seeds with 100 steps, one seed with two steps.
FEW_CLASSES = (
    " On the digits, pre-training on five classes reduces the 5-shot accuracy on the other five (49 % after 2 steps, "
    "41 % after 100), because the features of so few classes do not transfer. Use the held-out accuracy instead."
)


def findings(
    title: str, outcomes: Sequence[Outcome], published: Mapping[str, Cell], small: SmallScale, label: str = "published"
) -> Findings:
    """Returns the results of a sweep over variants. The first variant is the baseline of all comparisons.

    `published` contains the paper's numbers by variant, and `label` is their column name.
    """
    rows = tuple(
        (each.name, published.get(each.name), each.fewshot.percent, each.accuracy.percent, round(each.flops / 1e6, 2))
        for each in outcomes
    )
    columns = ("variant", label, SHOT, HELD_OUT, "million FLOPs per image")
    return Findings(
        table=Table(columns, rows),
        drawings={"": by_name(title, outcomes)},
        remarks=(
            *compare([each.accuracy for each in outcomes], "Held-out accuracy"),
            *compare([each.fewshot for each in outcomes], "5-shot accuracy"),
            caveat(small),
        ),
        numbers=raw(outcomes),
    )


def by_name(title: str, outcomes: Sequence[Outcome]) -> Curves:
    """Returns a plot of the 5-shot and held-out accuracy of every variant."""
    x = tuple(map(float, range(len(outcomes))))
    curves = []
    for name, trials in (
        ("5-shot, other classes", [each.fewshot for each in outcomes]),
        ("held out, same classes", [each.accuracy for each in outcomes]),
    ):
        y, spread = (
            tuple(100 * number for number in row) for row in zip(*((t.mean, t.deviation) for t in trials), strict=True)
        )
        curves.append(Curve(name, x, y, spread, joined=False))
    return Curves(title, "", "accuracy (%)", tuple(curves), tuple(each.name for each in outcomes))


def against_flops(title: str, kinds: Mapping[str, Sequence[tuple[float, Outcome]]]) -> Curves:
    """Returns a plot of held-out accuracy against FLOPs, with one line for each kind of model."""
    curves = []
    for kind, points in kinds.items():
        ordered = sorted(points, key=lambda point: point[0])
        x = tuple(cost for cost, _ in ordered)
        y = tuple(100 * each.accuracy.mean for _, each in ordered)
        curves.append(Curve(kind, x, y, tuple(100 * each.accuracy.deviation for _, each in ordered)))
    return Curves(title, "FLOPs", HELD_OUT, tuple(curves), log_x=True)


def caveat(small: SmallScale) -> str:
    """Returns a remark on the differences between a small-scale study and the paper."""
    few = FEW_CLASSES if small.data == "digits" else ""
    return (
        f"{SCALE} of '{small.data}', and evaluated on the other half; the paper's models have 86 to 632 million "
        f"parameters and are pre-trained on up to 300 million images. Compare the order of variants, not the "
        f"numbers.{few}"
    )
