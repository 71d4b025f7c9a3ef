"""Table 9: VTAB-1k task by task (appendix D.10): the protocol of 1,000 training pictures."""

from pathlib import Path

from vitkit.data.sources import vtab
from vitkit.evaluate.vtab import GROUPS, PUBLISHED, TASKS, averages
from vitkit.explain import Curve, Curves
from vitkit.paper import Exhibit, Findings, Table, commands
from vitkit.paper.comparison import differs
from vitkit.paper.small import Small, Variant, slug
from vitkit.paper.spread import Trial, verdict

STEPS, TUNING = 300, 60
RATES = (0.1, 0.03, 0.01)
PICTURES = 100  # a task, in place of the thousand


def _full() -> tuple[str, ...]:
    return tuple(commands.pretrain(f"vtab.{task}", f"vtab:{task}") for task in TASKS)


EXHIBIT = Exhibit(
    title="Table 9: VTAB-1k, task by task",
    section="appendix D.10",
    shows="Accuracy of ViTs on each of the 19 tasks after fine-tuning on 1,000 pictures, and their mean.",
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
    needs="the 19 tasks (each line reads its public mirror; vtab:TASK@SOURCE reads your own) and ViT-L/16",
    small=f"The protocol on two tasks made of the pictures at hand, {PICTURES} training pictures each: the rate is "
    "chosen on 80 and 20 of them, the model then trained on all and judged once on the rest.",
    minutes=2.5,
)


def study(small: Small) -> Findings:
    """Tasks of all other classes and of two of them, with pre-training and without."""
    half, last = len(small.classes) // 2, len(small.classes) - 1
    tasks = {"all other classes": f"{half}-{last}", "the last two": f"{last - 1}-{last}"}
    pretrained = small.sweep({"pre-trained": Variant(small.vit())}, STEPS)[0].folders
    rows, remarks, numbers, found = [], [], {}, []
    for task, classes in tasks.items():
        trials = []
        for name, starts in (("pre-trained", pretrained), ("from scratch", (None,) * small.seeds)):
            chosen = [protocol(small, f"{task} {name}", classes, start, seed) for seed, start in enumerate(starts)]
            trial = Trial(f"{task}, {name}", tuple(score for _, score in chosen))
            trials.append(trial)
            rates = sorted({rate for rate, _ in chosen})
            rows.append((task, name, ", ".join(f"{rate:g}" for rate in rates), trial.percent))
            numbers[trial.name] = trial.values
        remarks += verdict(trials, f"Accuracy on {task}")
        found += trials
    y, spread = tuple(100 * t.mean for t in found), tuple(100 * t.deviation for t in found)
    curve = Curve("accuracy", tuple(map(float, range(len(found)))), y, spread, joined=False)
    return Findings(
        table=Table(("task", "model", "rates chosen", "accuracy (%)"), tuple(rows)),
        drawings={"": Curves(EXHIBIT.title, "", "accuracy (%)", (curve,), tuple(trial.name for trial in found))},
        remarks=(*remarks, differs(small)),
        numbers=numbers,
    )


def protocol(small: Small, name: str, classes: str, start: Path | None, seed: int) -> tuple[float, float]:
    """The rate that is best on 20 pictures after training on 80, and the score of all 100 at that rate."""
    first, last = map(int, classes.split("-"))
    source = f"part:split=train@{small.data}" if small.comes_in_splits else small.data
    hundred = f"part:classes={classes},number={PICTURES // (last - first + 1)},seed={seed}@{source}"
    rest = f"part:classes={classes}@{small.data}" if small.comes_in_splits else small.part(hundred, "rest=1")
    options = {} if start else {"model": small.vit()}

    def score(label: str, data: str, val: str, rate: float) -> float:
        given = {**options, "data__val": val, "optimizer__rate": rate}
        steps = small.length(TUNING)
        return small.finetune(slug(f"{name}-{label}"), start, data=data, seed=seed, steps=steps, **given).score

    eighty, twenty = f"part:share=0.8@{hundred}", f"part:share=0.8,rest=1@{hundred}"
    tuned = {rate: score(f"tune-{rate:g}", eighty, twenty, rate) for rate in RATES}
    rate = max(tuned, key=lambda each: tuned[each])
    return rate, score("final", hundred, rest, rate)
