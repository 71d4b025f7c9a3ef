"""Figure 5 of the ViT paper: accuracy of ViTs, ResNets and hybrids by pre-training compute (section 4.4)."""

from dataclasses import replace

from vitkit.models import bit, hybrid, vit
from vitkit.paper import Experiment, Findings, Table, table6
from vitkit.paper._comparison import against_flops, findings
from vitkit.paper.small_scale import BATCH, Outcome, SmallScale, Variant
from vitkit.paper.table6 import PASSES

STEPS = 200
# Width and depth of the ViTs, and of the encoders of the hybrids.
SIZES = ((32, 2), (64, 3), (96, 4))
STEMS = (8, 16, 24)
GROUPS = 4


EXPERIMENT = Experiment(
    title="Figure 5: accuracy against pre-training compute",
    section="section 4.4",
    shows="Accuracy after transfer (mean of five datasets, and ImageNet) against pre-training exaFLOPs: ViTs reach the "
    "accuracy of ResNets with two to four times less compute; hybrids are better at small sizes.",
    published=Table(
        ("model", "epochs", "exaFLOPs", "ImageNet", "mean of CIFAR-10, CIFAR-100, Pets, Flowers"),
        tuple(
            (row.preset, row.epochs, row.exaflops, row.accuracies[0], round(sum(row.accuracies[2:]) / 4, 2))
            for row in table6.ROWS
        ),
    ),
    full=table6.EXPERIMENT.full,
    needs="JFT-300M, which is not public, and ImageNet for transfer",
    small="Three sizes each of ViT, ResNet and hybrid, pre-trained with the same number of steps and evaluated by "
    "5-shot accuracy on the other classes; FLOPs are counted as in Table 6.",
    minutes=4,
)


def models_of(small: SmallScale) -> dict[str, tuple[str, vit.Config | hybrid.Config | bit.Config]]:
    """Returns, for each model name, the kind (ViT, hybrid or ResNet) and the config."""
    models: dict[str, tuple[str, vit.Config | hybrid.Config | bit.Config]] = {}
    for width, depth in SIZES:
        shape = {"width": width, "depth": depth, "num_heads": width // 16, "mlp_width": 2 * width}
        plain = small.vit(**shape)
        models[f"ViT {width}x{depth}"] = ("ViT", plain)
        stem = {"depths": (1,), "stem_width": 8, "num_groups": GROUPS}
        size = {"image_size": plain.image_size, "patch_size": plain.patch_size}
        models[f"hybrid {width}x{depth}"] = ("hybrid", hybrid.Config(**size, **shape, **stem))
    for stem in STEMS:
        size = (small.side, small.side)
        config = bit.Config(image_size=size, depths=(1, 1, 1), stem_width=stem, num_groups=GROUPS)
        models[f"ResNet x{stem}"] = ("ResNet", config)
    return models


def study(small: SmallScale) -> Findings:
    """Pre-trains every model, and plots accuracy against compute with one line for each kind of model."""
    named = models_of(small)
    outcomes = small.sweep({name: Variant(model) for name, (_, model) in named.items()}, STEPS)
    images = small.length(STEPS) * BATCH
    kinds: dict[str, list[tuple[float, Outcome]]] = {}
    for each in outcomes:
        kinds.setdefault(named[each.name][0], []).append((each.flops * PASSES * images, each))
    result = findings(EXPERIMENT.title, outcomes, {}, small)
    title = "Figure 5: held-out accuracy against pre-training FLOPs, at small scale"
    return replace(result, drawings={"": against_flops(title, kinds), "all": result.drawings[""]})
