"""Figure 14 of the ViT paper: more attention maps like those of Figure 6 (appendix D.8)."""

from dataclasses import replace

from vitkit.paper import Experiment, Findings, _commands, figure6
from vitkit.paper.small_scale import SmallScale

USES_MODEL = True
IMAGES = 16

EXPERIMENT: Experiment = replace(
    figure6.EXPERIMENT,
    title="Figure 14: further attention maps",
    section="appendix D.8",
    shows="As Figure 6, for many randomly selected images.",
    full=(
        _commands.explain(figure6.MODEL, "rollout", "figure14.png", "images/"),
        f"vitkit paper figure14 --scale full --model {figure6.MODEL} --data folder:images/ --out runs/figure14",
    ),
    small=f"Rollout on {IMAGES} images, with `--model` or a model trained on the given images.",
)


def study(small: SmallScale) -> Findings:
    """Computes attention rollout as for Figure 6 of the ViT paper, on more images."""
    return figure6.study(small, IMAGES)
