"""Table 3 of the ViT paper: hyperparameters of pre-training, compared with the recipes of vitkit."""

from vitkit.paper import Cell, Experiment, Findings, Table
from vitkit.paper.small_scale import SmallScale
from vitkit.recipes import recipe

COLUMNS = ("models", "data", "epochs", "learning rate", "schedule", "weight decay", "dropout")
# Recipe and published row, with the longest training of each model.
ROWS: dict[str, tuple[Cell, ...]] = {
    "vit.b16_jft": ("ViT-B/{16,32}", "JFT-300M", 7, 8e-4, "linear", 0.1, 0.0),
    "vit.b32_jft": ("ViT-B/{16,32}", "JFT-300M", 7, 8e-4, "linear", 0.1, 0.0),
    "vit.l32_jft": ("ViT-L/32", "JFT-300M", 7, 6e-4, "linear", 0.1, 0.0),
    "vit.l16_jft": ("ViT-L/16", "JFT-300M", 14, 4e-4, "linear", 0.1, 0.0),
    "vit.h14_jft": ("ViT-H/14", "JFT-300M", 14, 3e-4, "linear", 0.1, 0.0),
    "baselines.r50x1_jft": ("R50x{1,2}", "JFT-300M", 7, 1e-3, "linear", 0.1, 0.0),
    "baselines.r50x2_jft": ("R50x{1,2}", "JFT-300M", 7, 1e-3, "linear", 0.1, 0.0),
    "baselines.r101x1_jft": ("R101x1", "JFT-300M", 7, 8e-4, "linear", 0.1, 0.0),
    "baselines.r152x1_jft": ("R152x{1,2}", "JFT-300M", 7, 6e-4, "linear", 0.1, 0.0),
    "baselines.r152x2_jft": ("R152x{1,2}", "JFT-300M", 7, 6e-4, "linear", 0.1, 0.0),
    "vit.r50_b16_jft": ("R50+ViT-B/{16,32}", "JFT-300M", 7, 8e-4, "linear", 0.1, 0.0),
    "vit.r50_b32_jft": ("R50+ViT-B/{16,32}", "JFT-300M", 7, 8e-4, "linear", 0.1, 0.0),
    "vit.r50_l32_jft": ("R50+ViT-L/32", "JFT-300M", 7, 2e-4, "linear", 0.1, 0.0),
    "vit.r50_l16_jft": ("R50+ViT-L/16", "JFT-300M", 14, 4e-4, "linear", 0.1, 0.0),
    "vit.b16_imagenet21k": ("ViT-B/{16,32}", "ImageNet-21k", 90, 1e-3, "linear", 0.03, 0.1),
    "vit.b32_imagenet21k": ("ViT-B/{16,32}", "ImageNet-21k", 90, 1e-3, "linear", 0.03, 0.1),
    "vit.l16_imagenet21k": ("ViT-L/{16,32}", "ImageNet-21k", 90, 1e-3, "linear", 0.03, 0.1),
    "vit.l32_imagenet21k": ("ViT-L/{16,32}", "ImageNet-21k", 90, 1e-3, "linear", 0.03, 0.1),
    "vit.b16_imagenet": ("ViT-*", "ImageNet", 300, 3e-3, "cosine", 0.3, 0.1),
    "vit.b32_imagenet": ("ViT-*", "ImageNet", 300, 3e-3, "cosine", 0.3, 0.1),
    "vit.l16_imagenet": ("ViT-*", "ImageNet", 300, 3e-3, "cosine", 0.3, 0.1),
    "vit.l32_imagenet": ("ViT-*", "ImageNet", 300, 3e-3, "cosine", 0.3, 0.1),
}

EXPERIMENT = Experiment(
    title="Table 3: pre-training hyper-parameters",
    section="appendix B.1",
    shows="Epochs, learning rate, schedule, weight decay and dropout of every model and dataset; batch size 4096, "
    "10,000 warm-up steps, Adam, 224 pixels.",
    published=Table(COLUMNS, tuple(dict.fromkeys(ROWS.values()))),
    full=tuple(f"vitkit recipes {name}" for name in ROWS),
    needs="",
    small="Our recipes, compared with the published rows field by field; the same at both scales.",
    minutes=0.1,
)


def ours(name: str) -> tuple[Cell, ...]:
    """Returns the hyperparameters of a recipe, in the order of the columns of Table 3 of the ViT paper."""
    run = recipe(name)
    dropout = float(getattr(run.model, "dropout", 0.0))
    return (run.epochs, run.optimizer.lr, run.schedule.decay, run.optimizer.weight_decay, dropout)


def study(small: SmallScale) -> Findings:
    """Compares every pre-training recipe with its row in Table 3 of the ViT paper."""
    rows, differing = [], []
    for name, published in ROWS.items():
        actual, expected = ours(name), published[2:]
        differ = [column for column, one, other in zip(COLUMNS[2:], actual, expected, strict=True) if one != other]
        differing += [f"{name}: {', '.join(differ)}"] if differ else []
        rows.append((name, *published[:2], *actual, ", ".join(differ) or "none"))
    return Findings(
        table=Table(("recipe", *COLUMNS, "differences"), tuple(rows)),
        remarks=(
            f"Recipes that differ: {'; '.join(differing) or 'none'}.",
            "The paper also trains ViT-L/16 and R50+ViT-L/16 for 7 epochs, and ViT-L on ImageNet-21k for 30 "
            "(`--set epochs=7`).",
        ),
        numbers={name: list(ours(name)) for name in ROWS},
    )
