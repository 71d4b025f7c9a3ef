"""Table 1 of the ViT paper: model variants, compared with the configs and numbers of parameters in vitkit."""

from vitkit import models
from vitkit.paper import Experiment, Findings, Table
from vitkit.paper.small_scale import SmallScale

COLUMNS = ("model", "layers", "width", "MLP", "heads", "million parameters")
PUBLISHED = {
    "vit-b": (12, 768, 3072, 12, 86),
    "vit-l": (24, 1024, 4096, 16, 307),
    "vit-h": (32, 1280, 5120, 16, 632),
}
# The patch sizes of the published parameter counts, which depend on the patch size by about 1 %.
PATCHES = {"vit-b": "16", "vit-l": "32", "vit-h": "14"}

EXPERIMENT = Experiment(
    title="Table 1: model variants",
    section="section 4.1",
    shows="Depth, width, heads and parameters of ViT-Base, Large and Huge.",
    published=Table(COLUMNS, tuple((f"{name}", *row) for name, row in PUBLISHED.items())),
    full=("vitkit models vit-",),
    needs="",
    small="Our configs, with parameters at 224 pixels and 1,000 classes; the same at both scales.",
    minutes=0.1,
)


def study(small: SmallScale) -> Findings:
    """Compares configs and numbers of parameters in vitkit with Table 1 of the ViT paper."""
    rows = []
    for name, (*_, million) in PUBLISHED.items():
        config = models.preset(f"{name}/{PATCHES[name]}")
        model = models.build(config, device="meta")
        count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        shape = (config.depth, config.width, config.mlp_width, config.num_heads)
        rows.append((f"{name}/{PATCHES[name]}", *shape, round(count, 1), million))
    return Findings(table=Table((*COLUMNS, "published"), tuple(rows)), numbers={str(row[0]): row[5] for row in rows})
