"""Table 7: ResNets pre-trained with Adam or with SGD, then fine-tuned (appendix D.1)."""

from vitkit.explain import Curve, Curves
from vitkit.models import resnet
from vitkit.paper import Exhibit, Findings, Table, commands, figure3
from vitkit.paper.comparison import differs
from vitkit.paper.small import Small, Variant
from vitkit.paper.spread import Trial, verdict

STEPS = 200
# Each optimiser has its best rate of these, by held-out pictures of the classes trained on.
RATES = {"adamw": (3e-3, 1e-3), "sgd": (1e-1, 3e-2)}


def _full() -> tuple[str, ...]:
    # SGD as BiT pre-trains: a rate of 0.03 for each 256 pictures of a batch, a decay of 1e-4.
    sgd = ("optimizer.name=sgd", "optimizer.rate=0.48", "optimizer.weight_decay=1e-4")
    lines = []
    for recipe in ("r50x1_jft", "r152x2_jft"):
        for name, settings in (("adam", ()), ("sgd", sgd)):
            out = f"runs/table7_{recipe}_{name}"
            lines.append(commands.pretrain(f"baselines.{recipe}", commands.JFT, *settings, out=out))
            lines.append(commands.finetune(f"{out}/best", commands.IMAGENET, f"{out}_ft", steps=20_000, rate=0.03))
    return tuple(lines)


EXHIBIT = Exhibit(
    title="Table 7: Adam or SGD to pre-train ResNets",
    section="appendix D.1",
    shows="Accuracy after fine-tuning of ResNets pre-trained on JFT-300M with Adam and with SGD: Adam is better in the "
    "mean over data sets, so the paper's ResNet baselines use it.",
    published=Table(
        ("model", "ImageNet, Adam", "ImageNet, SGD", "mean of sets, Adam", "mean of sets, SGD"),
        (("ResNet50", 77.54, 78.24, 89.33, 88.79), ("ResNet152x2", 84.97, 84.37, 94.01, 93.72)),
    ),
    full=_full(),
    needs=commands.NEEDS_JFT,
    small="A ResNet and a ViT pre-trained with either, at the better of two rates, then fine-tuned with SGD on few "
    "pictures of the other classes.",
    minutes=3.5,
)


def study(small: Small) -> Findings:
    """Both models with both optimisers."""
    kinds = {
        "ResNet": resnet.Config(image_size=(small.side, small.side), depths=(1, 1, 1), stem_width=8, num_groups=4),
        "ViT": small.vit(),
    }
    rows, remarks, numbers, found = [], [], {}, []
    for kind, model in kinds.items():
        trials = []
        for optimizer, rates in RATES.items():
            named = {
                f"{kind} {optimizer} {rate:g}": Variant(model, {"optimizer__name": optimizer, "optimizer__rate": rate})
                for rate in rates
            }
            best = max(small.sweep(named, STEPS), key=lambda each: each.accuracy.mean)
            trial = figure3.tuned(small, best.name, best.folders)
            trials.append(trial)
            rows.append((kind, best.name, best.accuracy.percent, best.fewshot.percent, trial.percent))
            numbers[best.name] = {"held_out": best.accuracy.values, "tuned": trial.values}
        remarks += verdict(trials, f"{kind} after fine-tuning")
        found += trials
    return Findings(
        table=Table(("model", "optimiser and rate", "held out (%)", "5-shot (%)", figure3.BETTER), tuple(rows)),
        drawings={"": drawn(found)},
        remarks=(*remarks, differs(small)),
        numbers=numbers,
    )


def drawn(trials: list[Trial]) -> Curves:
    """Accuracy after fine-tuning, one point a model and optimiser."""
    y = tuple(100 * trial.mean for trial in trials)
    spread = tuple(100 * trial.deviation for trial in trials)
    places = tuple(map(float, range(len(trials))))
    curve = Curve("fine-tuned", places, y, spread, joined=False)
    return Curves(EXHIBIT.title, "", figure3.BETTER, (curve,), tuple(trial.name for trial in trials))
