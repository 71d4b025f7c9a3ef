"""Self-supervision by masked patch prediction (ViT paper, section 4.6 and appendix B.1.2)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from vitkit.explanation import Curve, Curves
from vitkit.objectives import masked
from vitkit.paper import Experiment, Findings, Table, _commands, figure3
from vitkit.paper._comparison import caveat
from vitkit.paper._significance import Trial, compare
from vitkit.paper.small_scale import SmallScale

STEPS, TUNING = 400, 60
Starts = tuple[Path | None, ...]

EXPERIMENT = Experiment(
    title="Self-supervision: masked patch prediction",
    section="section 4.6, appendix B.1.2",
    shows="ViT-B/16 pre-trained to predict the mean colors of masked patches of JFT-300M, then fine-tuned on "
    "ImageNet: 2 points above training from scratch, 4 points below supervised pre-training.",
    published=Table(
        ("pre-training of ViT-B/16", "ImageNet (%)"),
        (("none", 77.91), ("masked patch prediction", 79.9), ("supervised", 84.15)),
    ),
    full=(
        _commands.pretrain("pretraining.masked_b16_imagenet", _commands.JFT, out="runs/masked_b16"),
        _commands.finetune("runs/masked_b16/best", _commands.IMAGENET, "runs/masked_b16_ft", steps=20_000, lr=0.03),
        _commands.pretrain("vit.b16_jft", _commands.JFT),
        _commands.finetune("runs/vit.b16_jft/best", _commands.IMAGENET, "runs/b16_ft", steps=20_000, lr=0.03),
        _commands.pretrain("vit.b16_imagenet", _commands.IMAGENET),
    ),
    needs=_commands.NEEDS_JFT,
    small="Supervised, self-supervised and no pre-training on half of the classes, then fine-tuning on "
    f"{figure3.LABELLED} images of each of the other classes at the better of two learning rates (chosen on the test "
    "images, so all accuracies are slightly too high).",
    minutes=3,
)


def starts(small: SmallScale) -> dict[str, Starts]:
    """Pre-trains with each method. Returns the checkpoints of each method, one per seed (None without pre-training)."""
    model = small.vit()
    kinds: dict[str, dict[str, Any]] = {
        "supervised": {},
        "masked patch prediction": {"evaluators": ("knn",), "metric": "knn.k20"},
    }
    checkpoints: dict[str, Starts] = {"none": (None,) * small.seeds}
    for name, changes in kinds.items():
        folders = []
        for seed in range(small.seeds):
            steps = small.length(STEPS)
            run = small.run(name.replace(" ", "-"), model, data=small.upstream, seed=seed, steps=steps, **changes)
            if name != "supervised":
                half = (0.5,) * 3
                run = replace(run, objective=masked.Config(mean=half, std=half))
            folders.append(small.train(run).folder / "best")
        checkpoints[name] = tuple(folders)
    return checkpoints


def study(small: SmallScale) -> Findings:
    """Fine-tunes the checkpoints of each pre-training method, and compares the accuracies."""
    trials = []
    for name, folders in starts(small).items():
        candidates = [finetune(small, name, folders, rate) for rate in (0.03, 0.1)]
        trials.append(max(candidates, key=lambda trial: trial.mean))
    published = dict(zip(("none", "masked patch prediction", "supervised"), (77.91, 79.9, 84.15), strict=True))
    rows = tuple((trial.name, published[trial.name], trial.percent) for trial in trials)
    x = tuple(map(float, range(len(trials))))
    y, spread = tuple(100 * t.mean for t in trials), tuple(100 * t.deviation for t in trials)
    curve = Curve("fine-tuned", x, y, spread, joined=False)
    return Findings(
        table=Table(("pre-training", "ViT-B/16 on ImageNet (%)", figure3.BETTER), rows),
        drawings={"": Curves(EXPERIMENT.title, "", figure3.BETTER, (curve,), tuple(trial.name for trial in trials))},
        remarks=(*compare(trials, "Accuracy after fine-tuning"), caveat(small)),
        numbers={trial.name: trial.values for trial in trials},
    )


def finetune(small: SmallScale, name: str, folders: Starts, rate: float) -> Trial:
    """Fine-tunes the checkpoint of each seed, or a randomly initialized model if the checkpoint is None."""
    data = small.part(small.downstream, f"number={figure3.LABELLED}")
    values = []
    for seed, start in enumerate(folders):
        options: dict[str, Any] = {"optimizer__lr": rate, **({} if start else {"model": small.vit()})}
        label = f"tuned-{name.replace(' ', '-')}-{rate:g}"
        result = small.finetune(label, start, data=data, seed=seed, steps=small.length(TUNING), **options)
        values.append(result.score)
    return Trial(name, tuple(values))
