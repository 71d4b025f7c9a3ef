"""Figure 5: accuracy against what pre-training costs, for ViTs, ResNets and hybrids (section 4.4)."""

from dataclasses import replace

from vitkit.models import hybrid, resnet, vit
from vitkit.paper import Exhibit, Findings, Table, table6
from vitkit.paper.comparison import against_flops, findings
from vitkit.paper.small import BATCH, Outcome, Small, Variant
from vitkit.paper.table6 import PASSES

STEPS = 200
# Width and depth of the ViTs, and of the hybrids behind a ResNet's root and first stage.
SIZES = ((32, 2), (64, 3), (96, 4))
STEMS = (8, 16, 24)
GROUPS = 4


EXHIBIT = Exhibit(
    title="Figure 5: accuracy against pre-training compute",
    section="section 4.4",
    shows="Accuracy after transfer (mean of five sets, and ImageNet) against pre-training exaFLOPs: ViTs reach that of "
    "ResNets with two to four times less, hybrids help small models.",
    published=Table(
        ("model", "epochs", "exaFLOPs", "ImageNet", "mean of CIFAR-10, CIFAR-100, Pets, Flowers"),
        tuple(
            (row.preset, row.epochs, row.exaflops, row.accuracies[0], round(sum(row.accuracies[2:]) / 4, 2))
            for row in table6.ROWS
        ),
    ),
    full=table6.EXHIBIT.full,
    needs="JFT-300M, which is not public, and ImageNet for transfer",
    small="Three sizes each of ViT, ResNet and hybrid, pre-trained for as many steps, 5-shot on the other classes; "
    "FLOPs by the same counter.",
    minutes=4,
)


def models_of(small: Small) -> dict[str, tuple[str, vit.Config | hybrid.Config | resnet.Config]]:
    """The models by name, each with its kind."""
    found: dict[str, tuple[str, vit.Config | hybrid.Config | resnet.Config]] = {}
    for width, depth in SIZES:
        shape = {"width": width, "depth": depth, "num_heads": width // 16, "mlp_width": 2 * width}
        plain = small.vit(**shape)
        found[f"ViT {width}x{depth}"] = ("ViT", plain)
        stem = {"depths": (1,), "stem_width": 8, "num_groups": GROUPS}
        size = {"image_size": plain.image_size, "patch_size": plain.patch_size}
        found[f"hybrid {width}x{depth}"] = ("hybrid", hybrid.Config(**size, **shape, **stem))
    for stem in STEMS:
        size = (small.side, small.side)
        config = resnet.Config(image_size=size, depths=(1, 1, 1), stem_width=stem, num_groups=GROUPS)
        found[f"ResNet x{stem}"] = ("ResNet", config)
    return found


def study(small: Small) -> Findings:
    """Every model, and the line of each kind."""
    named = models_of(small)
    outcomes = small.sweep({name: Variant(model) for name, (_, model) in named.items()}, STEPS)
    pictures = small.length(STEPS) * BATCH
    kinds: dict[str, list[tuple[float, Outcome]]] = {}
    for each in outcomes:
        kinds.setdefault(named[each.name][0], []).append((each.flops * PASSES * pictures, each))
    found = findings(EXHIBIT.title, outcomes, {}, small)
    title = "Figure 5: held-out accuracy against pre-training FLOPs, at small scale"
    return replace(found, drawings={"": against_flops(title, kinds), "all": found.drawings[""]})
