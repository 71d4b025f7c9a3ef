"""Figure 2 of the ViT paper: VTAB accuracy of natural, specialized and structured tasks (section 4.2)."""

from vitkit.paper import Experiment, Findings, Table, table9
from vitkit.paper.small_scale import SmallScale
from vitkit.recipes.vtab import GROUPS, PUBLISHED, averages

EXPERIMENT = Experiment(
    title="Figure 2: VTAB by group",
    section="section 4.2",
    shows="Mean accuracy on the natural, specialized and structured tasks of VTAB-1k.",
    published=Table(
        ("model (groups are means of Table 9)", *GROUPS, "all 19"),
        tuple(
            (name, *(round(averages(row)[group], 2) for group in (*GROUPS, "mean"))) for name, row in PUBLISHED.items()
        ),
    ),
    full=table9.EXPERIMENT.full,
    needs=table9.EXPERIMENT.needs,
    small=table9.EXPERIMENT.small,
    minutes=table9.EXPERIMENT.minutes,
)


def study(small: SmallScale) -> Findings:
    """Runs the study of Table 9 of the ViT paper, which has the results for each task."""
    return table9.study(small)
