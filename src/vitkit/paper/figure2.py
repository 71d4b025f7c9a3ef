"""Figure 2: VTAB by group - natural, specialised, structured (section 4.2)."""

from vitkit.paper import Exhibit, Findings, Table, table9
from vitkit.paper.small_scale import Small
from vitkit.recipes.vtab import GROUPS, PUBLISHED, averages

EXHIBIT = Exhibit(
    title="Figure 2: VTAB by group",
    section="section 4.2",
    shows="Mean accuracy on the natural, specialised and structured tasks of VTAB-1k.",
    published=Table(
        ("model (groups are means of Table 9)", *GROUPS, "all 19"),
        tuple(
            (name, *(round(averages(row)[group], 2) for group in (*GROUPS, "mean"))) for name, row in PUBLISHED.items()
        ),
    ),
    full=table9.EXHIBIT.full,
    needs=table9.EXHIBIT.needs,
    small=table9.EXHIBIT.small,
    minutes=table9.EXHIBIT.minutes,
)


def study(small: Small) -> Findings:
    """Runs the study of Table 9."""
    return table9.study(small)
