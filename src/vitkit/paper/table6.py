"""Table 6 of the ViT paper: models of the scaling study, with accuracies and FLOPs of pre-training.

exaFLOPs = operations of the forward pass per image x 3 (the backward pass costs two more) x images x epochs. The
operations are those of matrix products and convolutions; a multiplication and an addition count as two. The model is
that of pre-training: 224 pixels, the tanh layer (ViT and hybrid) and the head for the classes of JFT.
"""

from dataclasses import dataclass, replace

from vitkit import models
from vitkit.evaluation.flops import flops
from vitkit.explanation import Curve, Curves
from vitkit.paper import Experiment, Findings, Table, _commands
from vitkit.paper.small_scale import SmallScale

IMAGES = 303e6
CLASSES = 18_291
PASSES = 3
TOLERANCE = 0.05


@dataclass(frozen=True)
class Row:
    """A row of Table 6 of the ViT paper: model preset, recipe, epochs, accuracies in percent, and exaFLOPs."""

    preset: str
    recipe: str
    epochs: int
    accuracies: tuple[float, ...]
    exaflops: float


SETS = ("ImageNet", "ReaL", "CIFAR-10", "CIFAR-100", "Pets", "Flowers")
ROWS = (
    Row("vit-b/32", "vit.b32_jft", 7, (80.73, 86.27, 98.61, 90.49, 93.40, 99.27), 55),
    Row("vit-b/16", "vit.b16_jft", 7, (84.15, 88.85, 99.00, 91.87, 95.80, 99.56), 224),
    Row("vit-l/32", "vit.l32_jft", 7, (84.37, 88.28, 99.19, 92.52, 95.83, 99.45), 196),
    Row("vit-l/16", "vit.l16_jft", 7, (86.30, 89.43, 99.38, 93.46, 96.81, 99.66), 783),
    Row("vit-l/16", "vit.l16_jft", 14, (87.12, 89.99, 99.38, 94.04, 97.11, 99.56), 1567),
    Row("vit-h/14", "vit.h14_jft", 14, (88.08, 90.36, 99.50, 94.71, 97.11, 99.71), 4262),
    Row("bit-r50x1", "baselines.r50x1_jft", 7, (77.54, 84.56, 97.67, 86.07, 91.11, 94.26), 50),
    Row("bit-r50x2", "baselines.r50x2_jft", 7, (82.12, 87.94, 98.29, 89.20, 93.43, 97.02), 199),
    Row("bit-r101x1", "baselines.r101x1_jft", 7, (80.67, 87.07, 98.48, 89.17, 94.08, 95.95), 96),
    Row("bit-r152x1", "baselines.r152x1_jft", 7, (81.88, 87.96, 98.82, 90.22, 94.17, 96.94), 141),
    Row("bit-r152x2", "baselines.r152x2_jft", 7, (84.97, 89.69, 99.06, 92.05, 95.37, 98.62), 563),
    Row("bit-r152x2", "baselines.r152x2_jft", 14, (85.56, 89.89, 99.24, 91.92, 95.75, 98.75), 1126),
    Row("bit-r200x3", "baselines.r200x3_jft", 14, (87.22, 90.15, 99.34, 93.53, 96.32, 99.04), 3306),
    Row("r50+vit-b/32", "vit.r50_b32_jft", 7, (84.90, 89.15, 99.01, 92.24, 95.75, 99.46), 106),
    Row("r50+vit-b/16", "vit.r50_b16_jft", 7, (85.58, 89.65, 99.14, 92.63, 96.65, 99.40), 274),
    Row("r50+vit-l/32", "vit.r50_l32_jft", 7, (85.68, 89.04, 99.24, 92.93, 96.97, 99.43), 246),
    Row("r50+vit-l/16", "vit.r50_l16_jft", 7, (86.60, 89.72, 99.18, 93.64, 97.03, 99.40), 859),
    Row("r50+vit-l/16", "vit.r50_l16_jft", 14, (87.12, 89.76, 99.31, 93.89, 97.36, 99.11), 1668),
)


def _full() -> tuple[str, ...]:
    lines = []
    for row in ROWS:
        out = f"runs/{row.recipe}_{row.epochs}ep"
        lines.append(_commands.pretrain(row.recipe, _commands.JFT, f"epochs={row.epochs}", out=out))
        lines.append(
            _commands.finetune(
                f"{out}/best",
                _commands.IMAGENET,
                f"{out}_imagenet",
                steps=20_000,
                lr=0.03,
                image_size=_commands.H14_AT_384 if "h14" in row.recipe else 384,
            )
        )
    return tuple(lines)


EXPERIMENT = Experiment(
    title="Table 6: detailed results of the scaling study",
    section="appendix D, with Figure 5",
    shows="Accuracy after fine-tuning and pre-training exaFLOPs of ViTs, ResNets and hybrids on JFT-300M.",
    published=Table(
        ("model", "epochs", *SETS, "exaFLOPs"),
        tuple((row.preset, row.epochs, *row.accuracies, row.exaflops) for row in ROWS),
    ),
    full=_full(),
    needs="",
    small="The exaFLOPs by our FLOP counter, the same at both scales. Figure 5 reproduces the accuracies.",
    minutes=0.3,
)


def exaflops(preset: str, epochs: float) -> float:
    """Returns the exaFLOPs (10^18 FLOPs) of pre-training a model on JFT-300M."""
    config = models.preset(preset, num_classes=CLASSES)
    if "vit" in preset:
        config = replace(config, pre_logits=config.width)
    forward = flops(models.build(config, device="meta"))
    return forward * PASSES * IMAGES * epochs / 1e18


def study(small: SmallScale) -> Findings:
    """Computes the exaFLOPs of every row of Table 6 of the ViT paper, and compares them with the published numbers."""
    counted = {row.preset: exaflops(row.preset, 1) for row in ROWS}
    counts = [(row, counted[row.preset] * row.epochs) for row in ROWS]
    rows = [
        (row.preset, row.epochs, row.exaflops, round(ours, 1), f"{ours / row.exaflops - 1:+.1%}")
        for row, ours in counts
    ]
    outside = [f"{row.preset}, {row.epochs} epochs" for row, ours in counts if abs(ours / row.exaflops - 1) > TOLERANCE]
    names = tuple(f"{row.preset} {row.epochs}ep" for row, _ in counts)
    percent = tuple(100 * (ours / row.exaflops - 1) for row, ours in counts)
    return Findings(
        table=Table(("model", "epochs", "published exaFLOPs", "ours", "difference"), tuple(rows)),
        drawings={
            "": Curves(
                "Pre-training FLOPs compared with Table 6",
                "",
                "difference from published (%)",
                (Curve("difference", tuple(map(float, range(len(names)))), percent, joined=False),),
                names,
            )
        },
        remarks=(
            f"Differences above {TOLERANCE:.0%}: {', '.join(outside) or 'none'}.",
            "ViTs and hybrids agree to 3 %; ResNets of all sizes are 3 to 5 % above the published numbers. The paper "
            "does not define which of their operations it counts. It rounds to integers, which is up to "
            "1 % of the smallest rows.",
            "R50+ViT-L/16 has 859 exaFLOPs for 7 epochs and 1668 for 14 in the paper, which is not twice as many; our "
            "number for 7 epochs is half of the latter.",
        ),
        numbers={f"{row.preset} {row.epochs}": ours for row, ours in counts},
    )
