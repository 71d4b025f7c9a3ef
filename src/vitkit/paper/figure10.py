"""Figure 10: position embeddings under different hyper-parameters of training (appendix D.4)."""

from vitkit.paper import Exhibit, Findings, Table, commands, figure7, seen
from vitkit.paper.small import Small

SETTINGS = {
    "short": {"rate": 1e-3, "share": 0.5},
    "higher-rate": {"rate": 2e-3, "share": 0.5},
    "long": {"rate": 2e-3, "share": 1.0},
}


def _full() -> tuple[str, ...]:
    lines = []
    for name, settings in (
        ("lr2e-4", ("optimizer.rate=2e-4", "epochs=7")),
        ("lr4e-4", ("epochs=7",)),
        ("14epochs", ()),
    ):
        out = f"runs/figure10_{name}"
        lines.append(commands.pretrain("vit.l16_jft", commands.JFT, *settings, out=out))
        lines.append(commands.explain(f"{out}/best", "positions", f"figure10-{name}.png"))
    return tuple(lines)


EXHIBIT = Exhibit(
    title="Figure 10: position embeddings and hyper-parameters",
    section="appendix D.4",
    shows="Similarity of the learned positions of a ViT-L/16 trained for longer or with another learning rate.",
    published=Table(
        ("model", "result (drawings; no numbers are printed)"),
        (("ViT-L/16, 7 and 14 epochs, two rates", "neighbours are alike in all"),),
    ),
    full=_full(),
    needs=commands.NEEDS_JFT,
    small="One ViT at two learning rates and two lengths, trained on all pictures at hand.",
    minutes=1,
)


def study(small: Small) -> Findings:
    """The similarity of positions after each training."""
    drawings, rows = {}, []
    for name, setting in SETTINGS.items():
        steps = max(1, round(small.length(seen.STEPS) * setting["share"]))
        folder = seen.trained(small, f"positions-{name}", small.vit(), steps=steps, optimizer__rate=setting["rate"])
        found = seen.explained("positions", seen.shown(small, folder, 1))
        near, far = figure7.neighbours(found.arrays["similarity"])
        rows.append((name, steps, setting["rate"], round(near, 3), round(far, 3)))
        drawings[name] = found.drawing
    columns = ("training", "steps", "learning rate", "similarity of neighbours", "similarity of all others")
    return Findings(
        table=Table(columns, tuple(rows)),
        drawings=drawings,
        remarks=(seen.whose(small), "One seed each: no difference between the three is claimed."),
        numbers={str(row[0]): row[3:] for row in rows},
    )
