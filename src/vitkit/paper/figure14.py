"""Figure 14: further attention maps (appendix D.8), Figure 6 with more pictures."""

from dataclasses import replace

from vitkit.paper import Exhibit, Findings, commands, figure6
from vitkit.paper.small import Small

OF_A_MODEL = True
PICTURES = 16

EXHIBIT: Exhibit = replace(
    figure6.EXHIBIT,
    title="Figure 14: further attention maps",
    section="appendix D.8",
    shows="As Figure 6, for many pictures drawn at random.",
    full=(
        commands.explain(figure6.MODEL, "rollout", "figure14.png", "photos/"),
        f"vitkit paper figure14 --scale full --model {figure6.MODEL} --data folder:photos/ --out runs/figure14",
    ),
    small=f"Rollout over {PICTURES} pictures, of the model given or of one trained on the pictures at hand.",
)


def study(small: Small) -> Findings:
    """Rollout over more pictures."""
    return figure6.study(small, PICTURES)
