"""The `vitkit paper` command."""

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from vitkit.paper import Experiment, Table


def paper(
    name: Annotated[Positional[str], arg(metavar="NAME")] = "",
    *,
    scale: Literal["small", "full"] | None = None,
    out: Path | None = None,
    data: str = "digits",
    model: str | None = None,
    seeds: int = 3,
    steps: int | None = None,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Reproduce the tables and figures of the ViT paper.

    Without a name, lists all tables, figures and studies. With a name, shows the published numbers and the commands for
    the full scale. --scale small runs a small version on this machine. It writes to OUT the file result.md with the
    published numbers and ours, result.json and figures. The same command resumes a stopped run. --scale full computes
    what needs no training: counts of parameters and FLOPs, and figures of a model (--model).

    Args:
        name: Name of a table, figure or study, such as table8, figure5 or selfsupervision.
        scale: Scale of the experiment: small (a small version for this machine) or full (the scale of the paper).
        out: Output folder. If not set: runs/paper/NAME.
        data: Dataset for the small scale: digits, which is part of vitkit, or a source such as parquet:/data/cifar10.
        model: Checkpoint of the model to explain in figure6, figure7 or figure14.
        seeds: Number of random seeds. Each model is trained once per seed.
        steps: Number of training steps per model. If not set, it depends on the experiment.
        device: Device to run on: auto, cpu, cuda, cuda:1 or mps.
        json: Print JSON instead of text. Without NAME, one line of JSON per experiment is printed.
    """
    from vitkit import paper as experiments

    if not name:
        _list(experiments.experiments(), json)
        return
    found = experiments.experiment(name)
    if scale is None:
        _show(name, found, json)
        return
    if model is not None and not experiments.uses_model(name):
        raise ValueError(f"{found.title} does not use --model; only figure6, figure7 and figure14 do")
    _make(name, scale, json, out=out or Path("runs") / "paper" / name, data=data, model=model, seeds=seeds,
          steps=steps, device=device)  # fmt: skip


def _list(found: "dict[str, Experiment]", json: bool) -> None:
    from vitkit.tables import table

    if json:
        for name, each in found.items():
            print(json_format.dumps(_record(name, each)))
        return
    rows = [
        (
            name,
            f"{max(1, round(60 * each.minutes))} s" if each.minutes < 1 else f"{each.minutes:g} min",
            each.title.partition(": ")[2] or each.title,
        )
        for name, each in found.items()
    ]
    print(table(rows, ("name", "small scale", "description"), right=(1,)))
    print(
        "\n`vitkit paper NAME` shows the published numbers and the commands, "
        "and `vitkit paper NAME --scale small` runs a small version."
    )


def _record(name: str, each: "Experiment") -> dict[str, object]:
    return {
        "name": name,
        "title": each.title,
        "section": each.section,
        "shows": each.shows,
        "published": each.published.to_dict(),
        "full": list(each.full),
        "needs": each.needs,
        "small": _small(name),
        "small_is": each.small,
        "minutes": each.minutes,
    }


def _small(name: str) -> str:
    return f"vitkit paper {name} --scale small --out runs/paper/{name}"


def _show(name: str, each: "Experiment", json: bool) -> None:
    if json:
        print(json_format.dumps(_record(name, each)))
        return
    print(f"{each.title} ({each.section})\n{each.shows}\n\nPublished:")
    _print(each.published)
    print(f"\nAt full scale it needs {each.needs}:" if each.needs else "\nAt full scale:")
    for line in each.full:
        print(f"  {line}")
    print(f"\nAt small scale, about {each.minutes:g} minutes of one CPU core. {each.small}\n  {_small(name)}")


def _make(name: str, scale: str, json: bool, **settings: object) -> None:
    import sys
    import time

    from vitkit import paper as experiments
    from vitkit.paper import write
    from vitkit.paper.small_scale import SmallScale

    start = time.process_time()
    small = SmallScale(**settings, log=lambda text: print(text, file=sys.stderr, flush=True))  # type: ignore[arg-type]
    found = (experiments.full if scale == "full" else experiments.study)(name, small)
    seconds = time.process_time() - start
    paths = write.write(name, experiments.experiment(name), found, small, seconds)
    if json:
        print(json_format.dumps(write.to_dict(name, experiments.experiment(name), found, small, seconds)))
        return
    _print(found.table)
    for remark in found.remarks:
        print(f"* {remark}")
    print(f"\n{', '.join(str(path) for path in paths)} ({seconds:.0f} s of CPU)")


def _print(content: "Table") -> None:
    from vitkit.tables import table

    print(table(content.words(), content.columns))
