"""Figure 7: filters of the patch projection, similarity of positions, attended distance (section 4.5)."""

import numpy as np
from jaxtyping import Float

from vitkit.paper import Exhibit, Findings, Table, commands, seen
from vitkit.paper.small import Small

OF_A_MODEL = True
PICTURES = 128  # as in the paper
FILTERS = 28
METHODS = ("filters", "positions", "distance")
MODELS = {
    "filters": "google/vit-large-patch32-384",
    "positions": "google/vit-large-patch32-384",
    "distance": "google/vit-large-patch16-224",
}

EXHIBIT = Exhibit(
    title="Figure 7: filters, positions, attention distance",
    section="section 4.5",
    shows="Left: the first 28 components of ViT-L/32's patch filters. Centre: cosine similarity of its position "
    "embeddings. Right: how far each head of ViT-L/16 looks, by layer.",
    published=Table(
        ("part", "result (drawings; no numbers are printed)"),
        (
            ("filters", "plausible bases of what patches look like inside"),
            ("positions", "close patches are alike, and those of one row or column"),
            ("distance", "some heads look far in the first layers already; all do in the last"),
        ),
    ),
    full=(
        *(
            commands.explain(model, method, f"figure7-{method}.png", "photos/" if method == "distance" else "")
            for method, model in MODELS.items()
        ),
        f"vitkit paper figure7 --scale full --model {MODELS['distance']} --data folder:photos/ --out runs/figure7",
    ),
    needs=f"a ViT with weights (--model {MODELS['distance']}) and photos (--data folder:photos/)",
    small=f"All three, over {PICTURES} pictures, of the model given or of one trained on the pictures at hand.",
    minutes=0.5,
)


def study(small: Small) -> Findings:
    """The three drawings, and a number for each."""
    shown = seen.shown(small, seen.given_or_trained(small), PICTURES)
    embed = shown.model.config
    number = min(FILTERS, embed.width, embed.channels * embed.patch_size[0] * embed.patch_size[1])
    filters = seen.explained("filters", shown, number=number)
    positions = seen.explained("positions", shown)
    distance = seen.explained("distance", shown)
    near, far = neighbours(positions.arrays["similarity"])
    layers = distance.arrays["distance"]
    rows = (
        ("variance in the first filters", round(float(filters.arrays["variance"].sum()), 3)),
        ("similarity of neighbouring positions", round(near, 3)),
        ("similarity of all other positions", round(far, 3)),
        ("attention distance of the first layer (pixels)", round(float(layers[0].mean()), 1)),
        ("attention distance of the last layer (pixels)", round(float(layers[-1].mean()), 1)),
        ("attention to all patches alike would be (pixels)", round(float(distance.arrays["uniform"]), 1)),
    )
    return Findings(
        table=Table(("what", "found"), rows),
        drawings={name: found.drawing for name, found in zip(METHODS, (filters, positions, distance), strict=True)},
        remarks=(seen.whose(small),),
        numbers={**{str(name): value for name, value in rows}, "distance": layers.tolist()},
    )


def neighbours(similarity: Float[np.ndarray, "rows columns rows columns"]) -> tuple[float, float]:
    """The mean similarity of patches side by side or one above the other, and of all other pairs."""
    rows, columns = similarity.shape[:2]
    place = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2)
    steps = np.abs(place[:, None] - place[None]).sum(axis=-1)
    flat = similarity.reshape(rows * columns, rows * columns)
    far = flat[steps > 1]
    return float(flat[steps == 1].mean()), float(far.mean()) if far.size else float("nan")
