"""Figure 6 of the ViT paper: attention rollout from the class token to the patches (section 4.5, appendix D.8)."""

from vitkit.explanation import explain
from vitkit.paper import Experiment, Findings, Table, _commands, _explained_models
from vitkit.paper.small_scale import SmallScale

USES_MODEL = True
IMAGES = 6
MODEL = "google/vit-large-patch16-224"

EXPERIMENT = Experiment(
    title="Figure 6: attention of the output to the image",
    section="section 4.5, appendix D.8",
    shows="Attention rollout of ViT-L/16: the model attends to image regions that are relevant for the class.",
    published=Table(
        ("method", "definition"), (("attention rollout", "weights averaged over heads, multiplied over layers"),)
    ),
    full=(
        _commands.explain(MODEL, "rollout", "figure6.png", "images/"),
        f"vitkit paper figure6 --scale full --model {MODEL} --data folder:images/ --out runs/figure6",
    ),
    needs=f"a ViT with weights (--model {MODEL}) and images (--data folder:images/)",
    small=f"Rollout on {IMAGES} images, with `--model` or a model trained on the given images.",
    minutes=0.5,
)


def study(small: SmallScale, num_images: int = IMAGES) -> Findings:
    """Computes attention rollout on `num_images` images."""
    subject = _explained_models.load_subject(small, _explained_models.given_or_trained(small), num_images)
    explanation = explain("rollout", subject)
    values = next(iter(explanation.arrays.values()))
    flat = values.reshape(values.shape[0], -1)
    top = (flat.max(axis=1) / flat.mean(axis=1)).tolist()
    rows = tuple((f"image {index}", round(value, 2)) for index, value in enumerate(top))
    return Findings(
        table=Table(("image", "maximum over mean of the rollout"), rows),
        drawings={"": explanation.drawing},
        remarks=(_explained_models.model_remark(small),),
        numbers={"most_over_mean": top},
    )
