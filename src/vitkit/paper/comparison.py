"""What the findings of a sweep look like: a table, a drawing of 5-shot accuracies, and what may be said of them."""

from collections.abc import Mapping, Sequence

from vitkit.explain import Curve, Curves
from vitkit.paper import Cell, Findings, Table
from vitkit.paper.small import Outcome, Small, raw
from vitkit.paper.spread import verdict

SHOT = "5-shot, other classes (%)"
HELD = "held out, same classes (%)"
SCALE = "Ours is a model of 0.1 million parameters, pre-trained for seconds on few pictures of half of the classes"

# Seen with Table 8's variants, three seeds of 100 steps against one of two steps.
FEW_CLASSES = (
    " On the digits, pre-training on five classes takes 5-shot accuracy on the other five below that of a hardly "
    "trained model (41 % after 100 steps, 49 % after 2): so few classes teach what tells them apart and nothing "
    "else. Held-out accuracy is the number to read."
)


def findings(
    title: str, outcomes: Sequence[Outcome], published: Mapping[str, Cell], small: Small, label: str = "published"
) -> Findings:
    """The outcomes one by one, the first being what the others are compared with.

    `published` holds the paper's number for those variants that have one; `label` says what it is.
    """
    rows = tuple(
        (each.name, published.get(each.name), each.fewshot.percent, each.accuracy.percent, round(each.flops / 1e6, 2))
        for each in outcomes
    )
    columns = ("variant", label, SHOT, HELD, "million FLOPs a picture")
    return Findings(
        table=Table(columns, rows),
        drawings={"": by_name(title, outcomes)},
        remarks=(
            *verdict([each.accuracy for each in outcomes], "Held-out accuracy"),
            *verdict([each.fewshot for each in outcomes], "5-shot accuracy"),
            differs(small),
        ),
        numbers=raw(outcomes),
    )


def by_name(title: str, outcomes: Sequence[Outcome]) -> Curves:
    """5-shot and held-out accuracy of every variant, with the deviation over seeds."""
    places = tuple(float(place) for place in range(len(outcomes)))
    curves = []
    for name, trials in (
        ("5-shot, other classes", [each.fewshot for each in outcomes]),
        ("held out, same classes", [each.accuracy for each in outcomes]),
    ):
        y, spread = (
            tuple(100 * number for number in row) for row in zip(*((t.mean, t.deviation) for t in trials), strict=True)
        )
        curves.append(Curve(name, places, y, spread, joined=False))
    return Curves(title, "", "accuracy (%)", tuple(curves), tuple(each.name for each in outcomes))


def against_flops(title: str, kinds: Mapping[str, Sequence[tuple[float, Outcome]]]) -> Curves:
    """Held-out accuracy of each kind of model against what was spent, a logarithmic number of operations."""
    curves = []
    for kind, points in kinds.items():
        ordered = sorted(points, key=lambda point: point[0])
        x = tuple(spent for spent, _ in ordered)
        y = tuple(100 * each.accuracy.mean for _, each in ordered)
        curves.append(Curve(kind, x, y, tuple(100 * each.accuracy.deviation for _, each in ordered)))
    return Curves(title, "FLOPs", HELD, tuple(curves), log_x=True)


def differs(small: Small) -> str:
    """What a reader must know before setting our numbers beside the paper's."""
    few = FEW_CLASSES if small.data == "digits" else ""
    return (
        f"{SCALE} of '{small.data}', and judged on the other half; the paper's are models of 86 to 632 million, "
        f"pre-trained on up to 300 million pictures. Orders of variants may be compared, never the numbers.{few}"
    )
