"""Table 9 of the ViT paper: VTAB-1k accuracy by task, with 1,000 training images per task (appendix D.10)."""

from pathlib import Path

from vitkit.data.sources import vtab
from vitkit.explanation import Curve, Curves
from vitkit.paper import Experiment, Findings, Table, _commands
from vitkit.paper._comparison import caveat
from vitkit.paper._significance import Trial, compare
from vitkit.paper.small_scale import SmallScale, Variant, slug
from vitkit.recipes.vtab import GROUPS, PUBLISHED, TASKS, averages

STEPS, TUNING = 300, 60
RATES = (0.1, 0.03, 0.01)
IMAGES = 100  # per task, instead of 1,000


def _full() -> tuple[str, ...]:
    return tuple(_commands.pretrain(f"vtab.{task}", f"vtab:{task}") for task in TASKS)


EXPERIMENT = Experiment(
    title="Table 9: VTAB-1k by task",
    section="appendix D.10",
    shows="Accuracy of ViTs on each of the 19 tasks after fine-tuning on 1,000 images, and the means.",
    published=Table(
        ("task", "group", *PUBLISHED),
        (
            *((task, vtab.TASKS[task].group, *(row[task] for row in PUBLISHED.values())) for task in TASKS),
            *(
                (group, "mean", *(round(averages(row)[group], 2) for row in PUBLISHED.values()))
                for group in (*GROUPS, "mean")
            ),
        ),
    ),
    full=_full(),
    needs="the 19 tasks (each line reads a public mirror; vtab:TASK@SOURCE reads another source) and ViT-L/16",
    small=f"The protocol on two tasks made from the given images, with {IMAGES} training images each: the learning "
    "rate is chosen by training on 80 and evaluating on 20; the model is then trained on all 100 and evaluated once on "
    "the rest.",
    minutes=2.5,
)


def study(small: SmallScale) -> Findings:
    """Runs the VTAB protocol on two tasks of new classes, with and without pre-training."""
    half, last = len(small.classes) // 2, len(small.classes) - 1
    tasks = {"all other classes": f"{half}-{last}", "the last two": f"{last - 1}-{last}"}
    pretrained = small.sweep({"pre-trained": Variant(small.vit())}, STEPS)[0].folders
    rows, remarks, numbers, all_trials = [], [], {}, []
    for task, classes in tasks.items():
        trials = []
        for name, starts in (("pre-trained", pretrained), ("from scratch", (None,) * small.seeds)):
            chosen = [protocol(small, f"{task} {name}", classes, start, seed) for seed, start in enumerate(starts)]
            trial = Trial(f"{task}, {name}", tuple(score for _, score in chosen))
            trials.append(trial)
            rates = sorted({rate for rate, _ in chosen})
            rows.append((task, name, ", ".join(f"{rate:g}" for rate in rates), trial.percent))
            numbers[trial.name] = trial.values
        remarks += compare(trials, f"Accuracy on {task}")
        all_trials += trials
    y, spread = tuple(100 * t.mean for t in all_trials), tuple(100 * t.deviation for t in all_trials)
    curve = Curve("accuracy", tuple(map(float, range(len(all_trials)))), y, spread, joined=False)
    return Findings(
        table=Table(("task", "model", "chosen learning rates", "accuracy (%)"), tuple(rows)),
        drawings={
            "": Curves(EXPERIMENT.title, "", "accuracy (%)", (curve,), tuple(trial.name for trial in all_trials))
        },
        remarks=(*remarks, caveat(small)),
        numbers=numbers,
    )


def protocol(small: SmallScale, name: str, classes: str, start: Path | None, seed: int) -> tuple[float, float]:
    """Returns the learning rate that is best on 20 validation images, and the final accuracy with this rate."""
    first, last = map(int, classes.split("-"))
    source = f"part:split=train@{small.data}" if small.has_splits else small.data
    hundred = f"part:classes={classes},number={IMAGES // (last - first + 1)},seed={seed}@{source}"
    rest = f"part:classes={classes}@{small.data}" if small.has_splits else small.part(hundred, "rest=1")
    options = {} if start else {"model": small.vit()}

    def score(label: str, data: str, val: str, rate: float) -> float:
        settings = {**options, "data__val": val, "optimizer__lr": rate}
        steps = small.length(TUNING)
        return small.finetune(slug(f"{name}-{label}"), start, data=data, seed=seed, steps=steps, **settings).score

    eighty, twenty = f"part:fraction=0.8@{hundred}", f"part:fraction=0.8,rest=1@{hundred}"
    tuned = {rate: score(f"tune-{rate:g}", eighty, twenty, rate) for rate in RATES}
    rate = max(tuned, key=lambda each: tuned[each])
    return rate, score("final", hundred, rest, rate)
