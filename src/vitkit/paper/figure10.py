"""Figure 10 of the ViT paper: position embeddings for different training hyperparameters (appendix D.4)."""

from vitkit.explanation import explain
from vitkit.paper import Experiment, Findings, Table, _commands, _explained_models, figure7
from vitkit.paper.small_scale import SmallScale

SETTINGS = {
    "short": {"rate": 1e-3, "length": 0.5},
    "higher-rate": {"rate": 2e-3, "length": 0.5},
    "long": {"rate": 2e-3, "length": 1.0},
}


def _full() -> tuple[str, ...]:
    lines = []
    for name, settings in (
        ("lr2e-4", ("optimizer.lr=2e-4", "epochs=7")),
        ("lr4e-4", ("epochs=7",)),
        ("14epochs", ()),
    ):
        out = f"runs/figure10_{name}"
        lines.append(_commands.pretrain("vit.l16_jft", _commands.JFT, *settings, out=out))
        lines.append(_commands.explain(f"{out}/best", "positions", f"figure10-{name}.png"))
    return tuple(lines)


EXPERIMENT = Experiment(
    title="Figure 10: position embeddings and hyper-parameters",
    section="appendix D.4",
    shows="Similarity of the learned position embeddings of a ViT-L/16 trained longer or with another learning rate.",
    published=Table(
        ("model", "result (figures without numbers)"),
        (("ViT-L/16, 7 and 14 epochs, two rates", "neighboring positions are similar in all"),),
    ),
    full=_full(),
    needs=_commands.NEEDS_JFT,
    small="A ViT trained with two learning rates and two numbers of steps on all images.",
    minutes=1,
)


def study(small: SmallScale) -> Findings:
    """Trains models with different hyperparameters, and computes similarities of their position embeddings."""
    drawings, rows = {}, []
    for name, setting in SETTINGS.items():
        steps = max(1, round(small.length(_explained_models.STEPS) * setting["length"]))
        folder = _explained_models.train_model(
            small, f"positions-{name}", small.vit(), steps=steps, optimizer__lr=setting["rate"]
        )
        explanation = explain("positions", _explained_models.load_subject(small, folder, 1))
        near, far = figure7.mean_similarities(explanation.arrays["similarity"])
        rows.append((name, steps, setting["rate"], round(near, 3), round(far, 3)))
        drawings[name] = explanation.drawing
    columns = ("training", "steps", "learning rate", "similarity of neighbors", "similarity of all others")
    return Findings(
        table=Table(columns, tuple(rows)),
        drawings=drawings,
        remarks=(_explained_models.model_remark(small), "Each training has one seed, so differences are not tested."),
        numbers={str(row[0]): row[3:] for row in rows},
    )
