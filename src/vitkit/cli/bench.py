"""The `vitkit bench` command."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from vitkit.cli._arguments import Joined


def bench(
    kind: Annotated[Positional[str], arg(metavar="KIND")],
    *,
    model: Annotated[str, Joined(), arg(metavar="NAME,...")] = "",
    batch: Annotated[str, Joined(), arg(metavar="INT,...")] = "",
    precision: Annotated[str, Joined(), arg(metavar="NAME,...")] = "",
    peers: Annotated[str, Joined(), arg(metavar="NAME,...")] = "",
    threads: int | None = None,
    device: str = "auto",
    images: str | None = None,
    rounds: int = 8,
    seconds: float = 2.0,
    timeout: float = 900.0,
    prepare: int = 1,
    out: Path | None = None,
    json: bool = False,
) -> int:
    """Benchmark vitkit against the other installed libraries.

    KIND is `inference` (forward passes), `training` (training steps), `classification` (JPEG files to classes, with the
    defaults of every library), `data` (JPEG files to tensors, on one core) or `startup` (complete processes). The
    candidates run in separate processes and take turns, so that load on the machine affects all of them. Their outputs
    are compared, and a candidate with wrong outputs is not ranked. The results are ratios of speeds. Ctrl-C ends the
    benchmark and shows the results so far.

    Args:
        kind: Benchmark to run: inference, training, classification, data or startup.
        model: Comma-separated architectures (with random weights) or checkpoints, such as vit-ti/16,vit-b/16.
        batch: Comma-separated batch sizes, such as 1,8,32. One table is printed per batch size.
        precision: Comma-separated precisions, such as float32,bfloat16, or all for every supported precision.
        peers: Comma-separated libraries, optionally with settings, such as vitkit:precision=int8,timm. If not set:
            all libraries.
        threads: Number of CPU threads per library. If not set: OMP_NUM_THREADS, or the number of cores.
            The `data` benchmark always uses 1 thread.
        device: Device to run on: auto, cpu or cuda.
        images: Folder of images for `classification`, `data` and `startup`. If not set: images of random noise.
        rounds: Number of measured rounds, after two warm-up rounds.
        seconds: Minimum duration of a round in seconds.
        timeout: Time limit in seconds for loading and compiling one library's model. A slower library counts as failed.
        prepare: Number of libraries that load and compile their models in parallel. Above 1, autotuning is unreliable.
        out: Output folder for the result files KIND_HARDWARE_DATE.md and .json. If not set: no files are written.
        json: Print one JSON object instead of tables.
    """
    from vitkit.bench import Plan, table
    from vitkit.bench.measure import measure, parse_options
    from vitkit.cli._streams import interrupt_code

    lists = {"models": model, "batches": batch, "precisions": precision, "peers": peers}
    options = parse_options(kind, lists, threads=threads, device=device, images=images)
    plan = Plan(rounds=rounds, seconds=seconds, timeout=timeout, preparing=prepare)
    command = ["vitkit", *sys.argv[1:]]
    report = measure(options, plan, command, _status())
    if json:
        print(table.to_json(report))
    else:
        table.show(report)
    if out is not None:
        page, _ = table.write(report, out)
        print(f"see {page}", file=sys.stderr)
    return interrupt_code() if report.interrupted else 0


def _status() -> Callable[[str], None]:
    """Returns a function that displays a status text in one line of the terminal and overwrites the previous text."""
    if not sys.stderr.isatty():
        return lambda text: None
    return lambda text: print(f"\r\033[K{text[:100]}", end="\r", file=sys.stderr, flush=True)
