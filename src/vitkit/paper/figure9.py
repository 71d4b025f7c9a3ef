"""Figure 9 of the ViT paper: class token and global average pooling at several learning rates (appendix D.3)."""

from vitkit.paper import Experiment, Findings, Table, _commands
from vitkit.paper._comparison import findings
from vitkit.paper.small_scale import SmallScale, Variant

STEPS = 200
RATES = (3e-3, 1e-3, 3e-4)


def _full() -> tuple[str, ...]:
    lines = []
    for name, rate, settings in (
        ("cls", 8e-4, ()),
        ("gap", 8e-4, ("model.class_token=false", "model.pool=gap")),
        ("gap_lower", 3e-4, ("model.class_token=false", "model.pool=gap")),
    ):
        out = f"runs/figure9_{name}"
        changes = (f"optimizer.lr={rate}", *settings)
        lines.append(_commands.pretrain("vit.b16_jft", _commands.JFT, *changes, out=out))
        lines.append(_commands.fewshot(f"{out}/best"))
    return tuple(lines)


EXPERIMENT = Experiment(
    title="Figure 9: class token or average pooling",
    section="appendix D.3",
    shows="5-shot accuracy on ImageNet during pre-training with a class token and with global average pooling.",
    published=Table(
        ("head", "learning rate", "result (curves without numbers)"),
        (
            ("class token", 8e-4, "the reference"),
            ("average pooling", 8e-4, "clearly worse"),
            ("average pooling", 3e-4, "as good as the class token"),
        ),
    ),
    full=_full(),
    needs=_commands.NEEDS_JFT,
    small="A ViT with either head at three learning rates.",
    minutes=2.5,
)


def study(small: SmallScale) -> Findings:
    """Pre-trains models with a class token and with global average pooling at every learning rate."""
    heads = {"class token": small.vit(), "average pooling": small.vit(class_token=False, pool="gap")}
    variants = {
        f"{head}, rate {rate:g}": Variant(model, {"optimizer__lr": rate})
        for head, model in heads.items()
        for rate in RATES
    }
    return findings(EXPERIMENT.title, small.sweep(variants, STEPS), {}, small)
