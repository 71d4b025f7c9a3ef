"""Steps of `gpu_check.py`: commands, their fractions of the time, and readers of their results."""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("tests", "inference", "training", "recipe")
PYTHON = sys.executable
VITKIT = (PYTHON, "-m", "vitkit")
OWN_TEST = "test_gpu_check.py"  # runs this script, so it is excluded
PEERS = {
    # Compiled candidates first: they take the longest to prepare. On a GPU both compilers use CUDA graphs.
    "inference": "vitkit:compile=true,timm_compiled,vitkit,timm,transformers",
    "training": "vitkit:hardware.compile=true,timm_compiled,vitkit,timm,transformers",
}
FLOAT8 = "vitkit:precision=float8:compile=true,vitkit:precision=float8"  # GPUs only
REFERENCE = "timm:precision=float32"  # prepared with the others, which saves a separate process at the end

Found = tuple[dict[str, Any], list[str]]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One process.

    `weight` is its part of the total time, in seconds of a full check; `rest` is the time that a benchmark needs apart
    from preparing its candidates. `read` takes the log and returns results and the reasons of failure.
    """

    part: str
    name: str
    command: tuple[str, ...]
    weight: float
    read: Callable[[str], Found]
    rest: float = 65.0


def steps(options: argparse.Namespace, facts: dict[str, Any], work: Path) -> list[Step]:
    """Returns the steps of the chosen parts, in order."""
    makers = {"tests": tests, "inference": inference, "training": training, "recipe": recipe}
    chosen = PARTS if options.part == "all" else (options.part,)
    return [step for part in chosen for step in makers[part](options, facts, work)]


def tests(options: argparse.Namespace, facts: dict[str, Any], work: Path) -> list[Step]:
    """Returns a step that runs all test files that mention CUDA."""
    files = sorted(
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if "cuda" in path.read_text(encoding="utf-8") and path.name != OWN_TEST
    )
    report = work / "tests.xml"
    command = (PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *files)
    return [Step(part="tests", name="CUDA tests", command=command, weight=45, read=lambda log: read_tests(report))]


def inference(options: argparse.Namespace, facts: dict[str, Any], work: Path) -> list[Step]:
    """Returns a large matrix product, then inference with every library, in bfloat16 and float8."""
    precision = precision_of(options, facts)
    size = "256" if options.tiny else "8192" if options.device == "cuda" else "2048"
    script = str(ROOT / "benchmarks" / "matrix_product.py")
    command = (PYTHON, script, "--device", options.device, "--size", size, "--precision", precision)
    product = Step(
        part="inference", name="matrix product", command=command, weight=12, read=lambda log: (json_line(log), [])
    )
    peers = ",".join([PEERS["inference"], *([FLOAT8] if options.device == "cuda" else []), REFERENCE])
    models = (("vit-mu/16", 2, 100),) if options.tiny else (("vit-b/16", 256, 135), ("vit-l/16", 128, 150))
    return [product, *(bench(options, work, "inference", model, peers, precision) for model in models)]


def training(options: argparse.Namespace, facts: dict[str, Any], work: Path) -> list[Step]:
    """Returns training steps with every library on the same model."""
    models = (("vit-mu/16", 2, 100),) if options.tiny else (("vit-b/16", 128, 80), ("vit-l/16", 32, 85))
    precision = precision_of(options, facts)
    return [bench(options, work, "training", model, PEERS["training"], precision) for model in models]


def bench(
    options: argparse.Namespace, work: Path, kind: str, model: tuple[str, int, float], peers: str, precision: str
) -> Step:
    """Returns a `vitkit bench` of one model; as many candidates are prepared at the same time as there are cores."""
    name, batch, weight = model
    if options.device == "cpu":
        batch = min(batch, 8)
    out = work / f"{kind}-{name.replace('/', '-')}"
    rounds = ("1", "0") if options.tiny else ("3", "0.3")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    command = (
        *VITKIT, "bench", kind, "--model", name, "--batch", str(batch), "--precision", precision, "--peers", peers,
        "--rounds", rounds[0], "--seconds", rounds[1], "--timeout", "TIMEOUT", "--prepare", str(max(2, cores)),
        "--device", options.device, "--out", str(out),
    )  # fmt: skip
    return Step(
        part=kind, name=f"{name}, batch {batch}", command=command, weight=weight, read=lambda log: read_bench(out)
    )


def recipe(options: argparse.Namespace, facts: dict[str, Any], work: Path) -> list[Step]:
    """Returns a few hundred training steps on CIFAR-10 if available, else on the digits of the package."""
    data = cifar10()
    run = work / "run"
    settings = {"hardware.device": options.device, "hardware.log_every": "10"}
    if data is None:
        name = "digits.tiny, without CIFAR-10"
        steps = "20" if options.tiny else "300"
        source = ("digits.tiny",)
        settings["schedule.warmup"] = "5"
    else:
        steps = "4" if options.tiny else "300"
        name = f"cifar10.gpu on {data.name}, not compiled"
        source = ("cifar10.gpu", "--data", f"parquet:{data}")
        workers = "1" if options.tiny else str(min(12, max(1, (facts["machine"]["cores"] or 2) - 2)))
        settings |= {
            "hardware.workers": workers,
            "hardware.compile": "false",
            "schedule.warmup": "100",
            "epochs": "none",
        }
        if options.tiny:
            small = {"model.width": 32, "model.depth": 1, "model.num_heads": 2, "model.mlp_width": 64, "batch_size": 16}
            settings |= {key: str(value) for key, value in small.items()} | {"schedule.warmup": "1"}
            settings["hardware.log_every"] = "1"
    settings |= {"steps": steps, "evaluate_every": steps}
    assignments = [f"{key}={value}" for key, value in settings.items()]
    command = (*VITKIT, "train", *source, "--out", str(run), "--set", *assignments)
    name = f"{name}, cut to {steps} steps"
    return [Step(part="recipe", name=name, command=command, weight=45, read=lambda log: read_run(run))]


def precision_of(options: argparse.Namespace, facts: dict[str, Any]) -> str:
    """Returns bfloat16, or float32 on a CPU without bfloat16 products."""
    flags = facts["machine"]["flags"]
    return "bfloat16" if options.device == "cuda" or "avx512f" in flags or "bf16" in flags else "float32"


def cifar10() -> Path | None:
    """Returns the folder with CIFAR-10's Parquet files, or the part that `gpu_wheels.sh` wrote."""
    shared = os.environ.get("VITKIT_SHARED")
    homes = [*([Path(shared)] if shared else []), ROOT / "shared", ROOT.parent / "shared"]
    folders = [*(home / "data" / "cifar10" for home in homes), ROOT / ".gpu-data" / "cifar10"]
    return next((each.resolve() for each in folders if any(each.glob("train*.parquet"))), None)


def json_line(log: str) -> dict[str, Any]:
    """Returns the last JSON object of a log."""
    return json.loads([line for line in log.splitlines() if line.startswith("{")][-1])


def read_tests(report: Path) -> Found:
    """Returns the counts of the test report and the failed tests."""
    suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
    counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    bad = [
        f"{case.get('classname', '')}::{case.get('name', '')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = [each.get("message", "") for each in suite.iter("skipped")]
    reasons = [f"{len(bad)} tests failed: {', '.join(bad[:8])}"] if bad else [] if counts["tests"] else ["no test ran"]
    return {"counts": counts, "failed": bad, "skipped": skipped}, reasons


def read_bench(out: Path) -> Found:
    """Returns the report of the benchmark; candidates without a result or with wrong outputs are failures."""
    (file,) = out.glob("*.json")
    report = json.loads(file.read_text())
    reasons = ["it was interrupted"] if report["interrupted"] else []
    for section in report["sections"]:
        bad = [row for row in section["rows"] if row["status"] not in ("correct", "measured")]
        bad += [row for row in section["limits"] if row["rate"] is None]
        reasons += [f"{row['candidate']} {row['status']}: {row['reason'] or 'no reason given'}" for row in bad]
    return report, reasons if report["sections"] else ["no candidate was measured", *reasons]


def read_run(run: Path) -> Found:
    """Returns loss, speed and accuracy of a training run, from its log."""
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    logged = [event for event in events if event["kind"] == "step"]
    scores = [event for event in events if event["kind"] == "evaluation"]
    speeds = [event["images_per_second"] for event in logged[1:]]
    found = {
        "steps": logged[-1]["step"],
        "first_loss": logged[0]["loss"],
        "last_loss": logged[-1]["loss"],
        "images_per_second": statistics.median(speeds) if speeds else None,
        "mfu": logged[-1].get("mfu"),
        "memory_gb": logged[-1].get("memory_gb"),
        "evaluation": scores[-1] if scores else {},
    }
    finite = abs(found["last_loss"]) < float("inf")  # False for NaN too
    reasons = [] if finite else [f"the loss is {found['last_loss']}"]
    return found, reasons + ([] if scores else ["the run ended before its evaluation"])
