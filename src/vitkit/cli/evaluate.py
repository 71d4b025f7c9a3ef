"""`vitkit evaluate`."""

import json as json_format
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from vitkit.train.evaluation import Evaluation


def evaluate(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    *,
    data: str,
    train: str | None = None,
    evaluators: Annotated[str, arg(name="with", metavar="NAME,...")] = "top1,confusion,calibration",
    out: Path | None = None,
    json: bool = False,
    held_out: float | None = None,
    seed: int = 0,
    precision: Literal["auto", "float32", "bfloat16", "float16", "int8", "float8"] = "auto",
    merge_tokens: int = 0,
    device: str = "auto",
    batch_size: int | None = None,
    workers: int = 0,
    revision: str | None = None,
    set: tuple[str, ...] = (),  # noqa: A002 - the option's name
) -> None:
    """Judge a model on labelled photos.

    Of its answers: `top1` (and top-5), `confusion`, `calibration`, `real:FILE` (accuracy by a JSON file of labels, such
    as ReaL's real.json), `subset` (among the classes that the photos have, as for ImageNet-A and -R; `subset:FILE`
    lists them). Of its representations, whatever its classes: `knn`, `fewshot`, `probe`, `linear` (DINO's protocol),
    which learn from --train. Of its attention: `segmentation:FOLDER` of masks, PNGs of object numbers named as the
    photos. Of itself: `throughput` (`throughput:bfloat16`), `flops`. The classes of the photos are found among the
    model's by name; WordNet ids (n01440764) name ImageNet's.

    Args:
        model: A checkpoint: a folder, a file of any dialect, or a hub id.
        data: The photos to judge by, as in folder:photos/val; of splits, val or test.
        train: The photos that knn, fewshot, probe and linear learn from; the train split of the data if not given.
        evaluators: What to find out.
        out: The folder to write evaluation.json and report.html into.
        json: Print one JSON object in place of the table.
        held_out: Judge on this share of each class of the data, and learn from the rest.
        seed: Which pictures that share is of.
        precision: The arithmetic of the network; auto is the fastest that is near float32 here, which is exact. int8 is
            calibrated on the first photos, float8 is for GPUs.
        merge_tokens: How many tokens every block merges away (ToMe): faster, another answer.
        device: Where it runs: auto, cpu, cuda, cuda:1, mps.
        batch_size: Images in one pass; 8 on a CPU, 64 on a GPU.
        workers: Processes that read photos beside the network; 0 reads them in between.
        revision: Branch, tag or commit of a hub id.
        set: Fields of the model's config as NAME=VALUE, where the file cannot tell them (pool=none).
    """
    from vitkit.cli._outcomes import settings
    from vitkit.predict import Predictor, load
    from vitkit.train import evaluation

    classifier = load(model, revision=revision, config=settings(set))
    placed = Predictor(
        classifier.model,
        classifier.processor,
        precision=precision,
        merge_tokens=merge_tokens,
        calibration=_some(train or data) if precision == "int8" else (),
        device=device,
        batch_size=batch_size,
    )
    judge = evaluation.Judge(
        data=data,
        train=train,
        evaluators=tuple(word.strip() for word in evaluators.split(",") if word.strip()),
        held_out=held_out,
        seed=seed,
        batch_size=placed.batch_size,
        workers=workers,
    )
    found = evaluation.run(model, placed.model, classifier.processor, classifier.labels, judge, _progress)
    if out is not None:
        evaluation.write(found, out)
    if json:
        print(json_format.dumps(found.to_dict(), ensure_ascii=False))
    else:
        _write_table(found)
        print(placed.statement)
        if out is not None:
            print(f"see {out / 'report.html'}")


def _some(data: str) -> Iterable[Any]:
    """A few photos out of the whole of a source, of its train split where there is one."""
    from vitkit.data import splits

    found = splits(data)
    source = found.get("train") or next(iter(found.values()))
    return (source.read(index).image for index in range(0, len(source), max(len(source) // 32, 1)))


def _progress(batches: Iterable[Any], total: int) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(batches, "photos", total=total, console=console, transient=True, disable=not console.is_terminal)


def _write_table(found: "Evaluation") -> None:
    from rich.console import Console
    from rich.table import Table

    from vitkit.train.evaluation import rows_of

    table = Table("by", "number", show_edge=False, box=None, header_style="bold")
    table.add_column("", justify="right")
    last = ""
    for evaluator, name, value in rows_of(found.numbers):
        table.add_row("" if evaluator == last else evaluator, name, value)
        last = evaluator
    learnt = "" if found.training is None else f", {len(found.training):,} to learn from"
    print(f"{found.model} on {found.judge.data}: {len(found.judged):,} photos{learnt}")
    Console(highlight=False).print(table)
