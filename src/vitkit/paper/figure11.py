"""Figure 11 of the ViT paper: attention distance of a ViT and a hybrid (appendix D.7)."""

from vitkit.explanation import explain
from vitkit.models import hybrid
from vitkit.paper import Experiment, Findings, Table, _commands, _explained_models, figure7
from vitkit.paper.small_scale import SmallScale

EXPERIMENT = Experiment(
    title="Figure 11: attention distance of ViT and hybrid",
    section="appendix D.7",
    shows="Mean attention distance by head and layer of ViT-L/16 and R50x1+ViT-L/16: after a ResNet, fewer heads of "
    "the first layers are local.",
    published=Table(
        ("model", "result (figures without numbers)"),
        (
            ("ViT-L/16", "the first layers have local and global heads"),
            ("R50+ViT-L/16", "fewer local heads"),
        ),
    ),
    full=(
        _commands.explain(figure7.MODELS["distance"], "distance", "figure11-vit.png", "images/"),
        _commands.explain("runs/vit.r50_l16_jft/best", "distance", "figure11-hybrid.png", "images/"),
    ),
    needs="JFT-300M (not public) for the hybrid, and images",
    small=f"A ViT and a hybrid trained on the given images; distances are means over {figure7.IMAGES} of them.",
    minutes=1,
)


def study(small: SmallScale) -> Findings:
    """Computes the mean attention distances of a plain ViT and a hybrid ViT."""
    plain = small.vit()
    shape = ("image_size", "patch_size", "width", "depth", "num_heads", "mlp_width")
    with_stem = hybrid.Config(**{n: getattr(plain, n) for n in shape}, depths=(1,), stem_width=8, num_groups=4)
    drawings, rows = {}, []
    for name, model in (("vit", plain), ("hybrid", with_stem)):
        folder = _explained_models.train_model(small, f"distance-{name}", model)
        explanation = explain("distance", _explained_models.load_subject(small, folder, figure7.IMAGES))
        drawings[name] = explanation.drawing
        for layer, heads in enumerate(explanation.arrays["distance"]):
            rows.append((name, layer, *(round(float(value), 2) for value in (heads.min(), heads.mean(), heads.max()))))
    return Findings(
        table=Table(("model", "layer", "nearest head (pixels)", "mean", "farthest head"), tuple(rows)),
        drawings=drawings,
        remarks=(_explained_models.model_remark(small), "Each model has one seed, so differences are not tested."),
        numbers={f"{row[0]} {row[1]}": row[2:] for row in rows},
    )
