"""Figure 11: how far heads look, in a ViT and in a hybrid (appendix D.7)."""

from vitkit.models import hybrid
from vitkit.paper import Exhibit, Findings, Table, commands, figure7, seen
from vitkit.paper.small import Small

EXHIBIT = Exhibit(
    title="Figure 11: attention distance of ViT and hybrid",
    section="appendix D.7",
    shows="Mean attention distance by head and layer of ViT-L/16 and R50x1+ViT-L/16: behind a ResNet fewer heads "
    "of the first layers look near.",
    published=Table(
        ("model", "result (drawings; no numbers are printed)"),
        (
            ("ViT-L/16", "near and far heads side by side in the first layers"),
            ("R50+ViT-L/16", "near heads are less pronounced"),
        ),
    ),
    full=(
        commands.explain(figure7.MODELS["distance"], "distance", "figure11-vit.png", "photos/"),
        commands.explain("runs/vit.r50_l16_jft/best", "distance", "figure11-hybrid.png", "photos/"),
    ),
    needs="JFT-300M (not public) for the hybrid; for the ViT, photos",
    small=f"Both trained on the pictures at hand, looked at over {figure7.PICTURES} of them.",
    minutes=1,
)


def study(small: Small) -> Findings:
    """The distances of both."""
    plain = small.vit()
    shape = ("image_size", "patch_size", "width", "depth", "num_heads", "mlp_width")
    behind = hybrid.Config(**{n: getattr(plain, n) for n in shape}, depths=(1,), stem_width=8, num_groups=4)
    drawings, rows = {}, []
    for name, model in (("vit", plain), ("hybrid", behind)):
        folder = seen.trained(small, f"distance-{name}", model)
        found = seen.explained("distance", seen.shown(small, folder, figure7.PICTURES))
        drawings[name] = found.drawing
        for layer, heads in enumerate(found.arrays["distance"]):
            rows.append((name, layer, *(round(float(value), 2) for value in (heads.min(), heads.mean(), heads.max()))))
    return Findings(
        table=Table(("model", "layer", "nearest head (pixels)", "mean", "farthest head"), tuple(rows)),
        drawings=drawings,
        remarks=(seen.whose(small), "One seed each: no difference between the two is claimed."),
        numbers={f"{row[0]} {row[1]}": row[2:] for row in rows},
    )
