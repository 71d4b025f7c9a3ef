"""`vitkit bench`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


def bench(
    kind: Annotated[Positional[str], arg(metavar="KIND")],
    *,
    model: str = "",
    batch: str = "",
    precision: str = "",
    peers: str = "",
    threads: int | None = None,
    device: str = "auto",
    photos: str | None = None,
    rounds: int = 8,
    seconds: float = 2.0,
    patience: float = 900.0,
    prepare: int = 1,
    out: Path | None = None,
    json: bool = False,
) -> int:
    """Measure vitkit beside every other library that is installed.

    KIND is `inference` (the network), `training` (steps), `photos` (JPEG files to classes, every library's own
    defaults), `data` (JPEG files to numbers, a core) or `startup` (whole processes). Contenders run in processes of
    their own and take turns, so that a busy machine is busy for all; answers are compared, and one that is wrong is
    never called fast. The ratios are the result. An interrupt shows what has been measured.

    Args:
        kind: What to measure.
        model: Architectures (vit-ti/16,vit-b/16), which get the same random weights everywhere, or checkpoints.
        batch: Images in one pass, as in 1,8,32: a table for each.
        precision: float32, bfloat16, float16, int8, auto; several with commas; `all` for all that each peer has.
        peers: Who takes part, with settings: vitkit,vitkit:precision=int8,timm:compile=max-autotune. All if not given.
        threads: Threads of each contender; OMP_NUM_THREADS, else one a core. `data` has one.
        device: Where it runs: auto, cpu, cuda.
        photos: A folder of photos for `photos`, `data` and `startup`, in place of noise.
        rounds: How many rounds count, after two to warm up.
        seconds: How long a round lasts at least.
        patience: Seconds after which a contender that is not prepared (loaded, compiled) has failed.
        prepare: How many contenders are prepared at the same time; more than one disturbs autotuning.
        out: The folder to write KIND_HARDWARE_DATE.md and .json into.
        json: Print one JSON object in place of the tables.
    """
    from vitkit.bench import Plan, table
    from vitkit.bench.measure import measure, options_of

    words = {"models": model, "batches": batch, "precisions": precision, "peers": peers}
    options = options_of(kind, words, threads=threads, device=device, photos=photos)
    plan = Plan(rounds=rounds, seconds=seconds, patience=patience, preparing=prepare)
    command = ["vitkit", *sys.argv[1:]]
    report = measure(options, plan, command, _status())
    if json:
        print(table.to_json(report))
    else:
        table.show(report)
    if out is not None:
        page, _ = table.write(report, out)
        print(f"see {page}", file=sys.stderr)
    return 130 if report.interrupted else 0


def _status() -> Callable[[str], None]:
    """What is going on, on one line that is written over, where somebody watches."""
    if not sys.stderr.isatty():
        return lambda text: None
    return lambda text: print(f"\r\033[K{text[:100]}", end="\r", file=sys.stderr, flush=True)
