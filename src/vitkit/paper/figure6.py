"""Figure 6: what the class token attends to in a picture, through all layers (section 4.5, appendix D.8)."""

from vitkit.paper import Exhibit, Findings, Table, commands, seen
from vitkit.paper.small import Small

OF_A_MODEL = True
PICTURES = 6
MODEL = "google/vit-large-patch16-224"

EXHIBIT = Exhibit(
    title="Figure 6: attention of the output to the picture",
    section="section 4.5, appendix D.8",
    shows="Attention rollout of ViT-L/16: the model attends to what matters for the class.",
    published=Table(
        ("method", "says"), (("attention rollout", "weights averaged over heads, multiplied over layers"),)
    ),
    full=(
        commands.explain(MODEL, "rollout", "figure6.png", "photos/"),
        f"vitkit paper figure6 --scale full --model {MODEL} --data folder:photos/ --out runs/figure6",
    ),
    needs=f"a ViT with weights (--model {MODEL}) and photos (--data folder:photos/)",
    small=f"Rollout over {PICTURES} pictures, of the model given or of one trained on the pictures at hand.",
    minutes=0.5,
)


def study(small: Small, number: int = PICTURES) -> Findings:
    """Rollout over some pictures."""
    found = seen.explained("rollout", seen.shown(small, seen.given_or_trained(small), number))
    shares = next(iter(found.arrays.values()))
    flat = shares.reshape(shares.shape[0], -1)
    top = (flat.max(axis=1) / flat.mean(axis=1)).tolist()
    rows = tuple((f"picture {place}", round(value, 2)) for place, value in enumerate(top))
    return Findings(
        table=Table(("picture", "most attended patch, against the mean patch"), rows),
        drawings={"": found.drawing},
        remarks=(seen.whose(small),),
        numbers={"most_over_mean": top},
    )
