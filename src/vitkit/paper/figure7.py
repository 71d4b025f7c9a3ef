"""Figure 7 of the ViT paper: embedding filters, position similarity and attention distance (section 4.5)."""

import numpy as np
from jaxtyping import Float

from vitkit.explanation import explain
from vitkit.paper import Experiment, Findings, Table, _commands, _explained_models
from vitkit.paper.small_scale import SmallScale

USES_MODEL = True
IMAGES = 128  # as in the paper
FILTERS = 28
METHODS = ("filters", "positions", "distance")
MODELS = {
    "filters": "google/vit-large-patch32-384",
    "positions": "google/vit-large-patch32-384",
    "distance": "google/vit-large-patch16-224",
}

EXPERIMENT = Experiment(
    title="Figure 7: filters, positions, attention distance",
    section="section 4.5",
    shows="Left: the first 28 principal components of ViT-L/32's patch embedding filters. Center: cosine similarity "
    "of its position embeddings. Right: mean attention distance of each head of ViT-L/16 by layer.",
    published=Table(
        ("part", "result (figures without numbers)"),
        (
            ("filters", "plausible basis functions for the fine structure of patches"),
            ("positions", "close patches are similar, and so are those of one row or column"),
            ("distance", "some heads attend globally in the first layers; all do in the last"),
        ),
    ),
    full=(
        *(
            _commands.explain(model, method, f"figure7-{method}.png", "images/" if method == "distance" else "")
            for method, model in MODELS.items()
        ),
        f"vitkit paper figure7 --scale full --model {MODELS['distance']} --data folder:images/ --out runs/figure7",
    ),
    needs=f"a ViT with weights (--model {MODELS['distance']}) and images (--data folder:images/)",
    small=f"All three parts on {IMAGES} images, with `--model` or a model trained on the given images.",
    minutes=0.5,
)


def study(small: SmallScale) -> Findings:
    """Draws the three parts of Figure 7 of the ViT paper, and computes numbers that summarize them."""
    subject = _explained_models.load_subject(small, _explained_models.given_or_trained(small), IMAGES)
    embed = subject.model.config
    number = min(FILTERS, embed.width, embed.channels * embed.patch_size[0] * embed.patch_size[1])
    filters = explain("filters", subject, number=number)
    positions = explain("positions", subject)
    distance = explain("distance", subject)
    near, far = mean_similarities(positions.arrays["similarity"])
    layers = distance.arrays["distance"]
    rows = (
        ("variance in the first filters", round(float(filters.arrays["variance"].sum()), 3)),
        ("similarity of neighboring positions", round(near, 3)),
        ("similarity of all other positions", round(far, 3)),
        ("attention distance of the first layer (pixels)", round(float(layers[0].mean()), 1)),
        ("attention distance of the last layer (pixels)", round(float(layers[-1].mean()), 1)),
        ("distance of uniform attention (pixels)", round(float(distance.arrays["uniform"]), 1)),
    )
    return Findings(
        table=Table(("quantity", "value"), rows),
        drawings={name: each.drawing for name, each in zip(METHODS, (filters, positions, distance), strict=True)},
        remarks=(_explained_models.model_remark(small),),
        numbers={**{str(name): value for name, value in rows}, "distance": layers.tolist()},
    )


def mean_similarities(similarity: Float[np.ndarray, "rows columns rows columns"]) -> tuple[float, float]:
    """Returns the mean position embedding similarity of adjacent patches, and that of all other pairs."""
    rows, columns = similarity.shape[:2]
    positions = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2)
    steps = np.abs(positions[:, None] - positions[None]).sum(axis=-1)
    flat = similarity.reshape(rows * columns, rows * columns)
    far = flat[steps > 1]
    return float(flat[steps == 1].mean()), float(far.mean()) if far.size else float("nan")
