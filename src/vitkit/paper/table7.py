"""Table 7 of the ViT paper: ResNets pre-trained with Adam and with SGD (appendix D.1)."""

from vitkit.explanation import Curve, Curves
from vitkit.models import bit
from vitkit.paper import Experiment, Findings, Table, _commands, figure3
from vitkit.paper._comparison import caveat
from vitkit.paper._significance import Trial, compare
from vitkit.paper.small_scale import SmallScale, Variant

STEPS = 200
# The best learning rate of each optimizer is chosen by held-out images of the training classes.
RATES = {"adamw": (3e-3, 1e-3), "sgd": (1e-1, 3e-2)}


def _full() -> tuple[str, ...]:
    # SGD as in BiT: a learning rate of 0.03 per 256 images of a batch, a weight decay of 1e-4.
    sgd = ("optimizer.name=sgd", "optimizer.lr=0.48", "optimizer.weight_decay=1e-4")
    lines = []
    for recipe in ("r50x1_jft", "r152x2_jft"):
        for name, settings in (("adam", ()), ("sgd", sgd)):
            out = f"runs/table7_{recipe}_{name}"
            lines.append(_commands.pretrain(f"baselines.{recipe}", _commands.JFT, *settings, out=out))
            lines.append(_commands.finetune(f"{out}/best", _commands.IMAGENET, f"{out}_ft", steps=20_000, lr=0.03))
    return tuple(lines)


EXPERIMENT = Experiment(
    title="Table 7: Adam or SGD to pre-train ResNets",
    section="appendix D.1",
    shows="Accuracy after fine-tuning of ResNets pre-trained on JFT-300M with Adam and with SGD: Adam has the better "
    "mean over datasets, so the paper's ResNet baselines use it.",
    published=Table(
        ("model", "ImageNet, Adam", "ImageNet, SGD", "mean of datasets, Adam", "mean of datasets, SGD"),
        (("ResNet50", 77.54, 78.24, 89.33, 88.79), ("ResNet152x2", 84.97, 84.37, 94.01, 93.72)),
    ),
    full=_full(),
    needs=_commands.NEEDS_JFT,
    small="A ResNet and a ViT pre-trained with either optimizer at the better of two learning rates, then fine-tuned "
    "with SGD on a few images of the other classes.",
    minutes=3.5,
)


def study(small: SmallScale) -> Findings:
    """Pre-trains a ResNet and a ViT with Adam and with SGD, and fine-tunes the models with the best learning rates."""
    kinds = {
        "ResNet": bit.Config(image_size=(small.side, small.side), depths=(1, 1, 1), stem_width=8, num_groups=4),
        "ViT": small.vit(),
    }
    rows, remarks, numbers, all_trials = [], [], {}, []
    for kind, model in kinds.items():
        trials = []
        for optimizer, rates in RATES.items():
            named = {
                f"{kind} {optimizer} {rate:g}": Variant(model, {"optimizer__name": optimizer, "optimizer__lr": rate})
                for rate in rates
            }
            best = max(small.sweep(named, STEPS), key=lambda each: each.accuracy.mean)
            trial = figure3.tuned(small, best.name, best.folders)
            trials.append(trial)
            rows.append((kind, best.name, best.accuracy.percent, best.fewshot.percent, trial.percent))
            numbers[best.name] = {"held_out": best.accuracy.values, "tuned": trial.values}
        remarks += compare(trials, f"{kind} after fine-tuning")
        all_trials += trials
    return Findings(
        table=Table(
            ("model", "optimizer and learning rate", "held out (%)", "5-shot (%)", figure3.BETTER), tuple(rows)
        ),
        drawings={"": plot(all_trials)},
        remarks=(*remarks, caveat(small)),
        numbers=numbers,
    )


def plot(trials: list[Trial]) -> Curves:
    """Returns a plot of the accuracy of every model and optimizer after fine-tuning."""
    y = tuple(100 * trial.mean for trial in trials)
    spread = tuple(100 * trial.deviation for trial in trials)
    x = tuple(map(float, range(len(trials))))
    curve = Curve("fine-tuned", x, y, spread, joined=False)
    return Curves(EXPERIMENT.title, "", figure3.BETTER, (curve,), tuple(trial.name for trial in trials))
