"""Closed, full and disconnected streams, full disks and signals: one line and the right exit code in every command."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit import checkpoints, models
from vitkit.cli import commands
from vitkit.data.processor import Processor

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device of Linux")
SCRIPT = Path(__file__).with_name("run_with_streams.py")
Case = tuple[str, str]  # a command, and its streams that are not ordinary, as in stdout=closed
Result = dict[str, Any]
Run = Callable[[Sequence[Case]], dict[Case, Result]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny checkpoint `m`, and images of three classes in `d/train` and `d/val`."""
    root = tmp_path_factory.mktemp("streams")
    torch.manual_seed(0)
    model = models.build(models.preset("vit-mu/16", image_size=32, num_classes=3))
    torch.nn.init.normal_(model.head.weight)  # a zero head would be named as untrained
    labels = ("red", "green", "blue")
    checkpoints.save(checkpoints.Checkpoint(model=model, processor=Processor.squash(32), labels=labels), root / "m")
    random = np.random.default_rng(0)
    for split, number in (("train", 4), ("val", 2)):
        for label in labels:
            (root / "d" / split / label).mkdir(parents=True)
            for index in range(number):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "d" / split / label / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def run(place: Path) -> Run:
    """Runs several commands in forks of one process, in the folder of `place`."""

    def run(cases: Sequence[Case]) -> dict[Case, Result]:
        given = [
            {"arguments": words.split(), "streams": dict([each.split("=") for each in streams.split()])}
            | ({"file_size": 20_000} if words in FILES else {})
            for words, streams in cases
        ]
        done = subprocess.run(
            [sys.executable, str(SCRIPT)],
            cwd=place,
            input="\n".join(map(json.dumps, given)),
            capture_output=True,
            text=True,
            timeout=600,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        results = dict(zip(cases, map(json.loads, done.stdout.splitlines()), strict=True))
        for (words, _), result in results.items():
            assert "traceback" not in result, f"{words}: {result['traceback']}"
        return results

    return run


@pytest.fixture(scope="module")
def quick(run: Run, place: Path) -> dict[Case, Result]:
    """The results of all cases that take little time, in one process."""
    for suffix in ("pth", "npz", "png"):
        (place / f"full.{suffix}").symlink_to("/dev/full")
    closed = [(words, "stdout=closed") for words in QUICK.values()]
    outputs = [(QUICK[name], f"stdout={kind}") for name in FAST for kind in ("full", "pipe")]
    errors = [(words, f"stderr={kind}") for words in JOBS for kind in ("closed", "full", "pipe")]
    return run([*closed, *outputs, *errors, *((words, "") for words in list(FILES)[:6])])


# Each command with little work, and those that come to their output in a moment.
QUICK = {
    "bench": "bench --help",
    "check": "check vitkit.plugins.templates.recipe --json",
    "classify": "classify m d/val/red --precision float32",
    "convert": "convert m out/c --to timm --overwrite",
    "demo": "demo --out out/demo",
    "embed": "embed m d/val/red",
    "evaluate": "evaluate m --data folder:d --with flops",
    "explain": "explain m d/val/red/0.png --out e.png",
    "export": "export m --to program --out out/e --overwrite",
    "finetune": "finetune m --data folder:d --out out/f --steps 1 --batch-size 4",
    "inspect": "inspect m",
    "models": "models vit-mu",
    "new": "new objective focal --out out/n",
    "paper": "paper",
    "recipes": "recipes digits",
    "train": "train digits.tiny --out out/t --set steps=1 epochs=none hardware.device=cpu",
}
FAST = ("bench", "convert", "inspect", "models", "paper", "recipes")
JOBS = {
    "classify m d/val/red nothing.png --csv --precision float32": 2,
    "evaluate m --data folder:d --with top1 --precision float32": 0,
}
# Commands that write files, and what they cannot write: a device that is full, and files of more than 20 kB.
FILES = {
    "convert m small/h --to huggingface": "small/h",
    "convert m small/t --to timm": "small/t",
    "convert m small/v --to vitkit": "small/v",
    "convert m small/t.pth --to torchvision": "small/t.pth",
    "convert m small/n.npz --to npz --set activation=gelu_tanh": "small/n.npz",
    "convert m full.pth --to torchvision --overwrite": "full.pth",
    "embed m d/train --out full.npz": "full.npz",
    "explain m d/val/red/0.png --out full.png": "full.png",
    "export m --to program --out small/p": "small/p",
}


def one_line(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.startswith("vitkit: ")]
    return len(lines) == 1 and "Traceback" not in text


def check_output(case: Case, result: Result) -> None:
    """A full standard output is one line, and one whose reader is gone is none."""
    full = case[1] == "stdout=full"
    assert result["code"] == (1 if full else 141), f"{case}: {result}"
    assert ("vitkit: standard output: No space left on device; free some space" in result["stderr"]) == full, case
    assert one_line(result["stderr"]) == full, f"{case}: {result}"


def check_file(case: Case, result: Result) -> None:
    """A full disk is one line that names the target."""
    target = FILES[case[0]]
    why = "No space left on device; free" if target.startswith("full") else "File too large; raise the limit"
    assert result["code"] == 1, f"{case}: {result}"
    assert result["stderr"].startswith(f"vitkit: {target}: {why}"), f"{case}: {result}"
    assert one_line(result["stderr"])


def test_every_command_is_here() -> None:
    assert sorted(QUICK) == commands()


def test_a_closed_standard_output_is_an_error_before_anything_is_done(quick: dict[Case, Result]) -> None:
    results = {case: result for case, result in quick.items() if case[1] == "stdout=closed"}
    assert len(results) == len(commands())
    for case, result in results.items():
        assert result["code"] == 1, case
        assert result["stderr"] == "vitkit: standard output is closed; redirect it to a file or to /dev/null\n"


def test_a_full_or_disconnected_standard_output_ends_with_one_line(quick: dict[Case, Result]) -> None:
    for name in FAST:
        for kind in ("full", "pipe"):
            check_output((QUICK[name], f"stdout={kind}"), quick[QUICK[name], f"stdout={kind}"])


@pytest.mark.slow
def test_a_full_or_disconnected_standard_output_of_all_other_commands(run: Run) -> None:
    for case, result in run(
        [
            # A file that exists is not written again.
            (words.replace("out/n", f"out/n-{kind}"), f"stdout={kind}")
            for kind in ("full", "pipe")
            for name, words in QUICK.items()
            if name not in FAST
        ]
    ).items():
        check_output(case, result)


def test_no_job_is_lost_for_standard_error(quick: dict[Case, Result]) -> None:
    for words, code in JOBS.items():
        for kind in ("closed", "full", "pipe"):
            result = quick[words, f"stderr={kind}"]
            assert result["code"] == code, f"{words}: {result}"
            assert len(result["stdout"].splitlines()) >= 5, f"{words}: {result}"


def test_full_disks_end_with_one_line_that_names_the_target(quick: dict[Case, Result], place: Path) -> None:
    for words in list(FILES)[:6]:
        check_file((words, ""), quick[words, ""])
    small = place / "small"
    assert not small.exists() or not list(small.iterdir())


@pytest.mark.slow
def test_full_disks_of_all_other_commands(quick: dict[Case, Result], run: Run, place: Path) -> None:
    for case, result in run([(words, "") for words in list(FILES)[6:]]).items():
        check_file(case, result)
    small = place / "small"
    assert not small.exists() or not list(small.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "words",
    [
        "classify m d/train --compile --batch-size 2",
        "evaluate m --data folder:d --with probe,linear",
        "finetune m --data folder:d --out {out} --steps 100000 --batch-size 4",
        "train digits.tiny --out {out} --set hardware.device=cpu",
        "demo --out {out}",
        "paper table8 --scale small --out {out}",
        "bench startup --rounds 50",
    ],
)
def test_an_interrupt_has_the_exit_code_of_its_signal(
    place: Path, tmp_path: Path, words: str, number: int, code: int
) -> None:
    command = [sys.executable, "-m", "vitkit", *words.format(out=tmp_path / "out").split()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    started = subprocess.Popen(
        command,
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Jobs in the background of a shell ignore SIGINT, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    # The signal arrives soon after torch is loaded, when no command has finished.
    end = time.monotonic() + 6.0
    while time.monotonic() < end and "libtorch_cpu" not in Path(f"/proc/{started.pid}/maps").read_text():
        time.sleep(0.1)
    time.sleep(1.0)
    assert started.poll() is None, started.communicate()[1][-2000:]
    started.send_signal(number)
    _, error = started.communicate(timeout=120)
    # Python ends by SIGINT itself, which a shell shows as 130, if the interrupt fell into an `exec` in an import.
    assert started.returncode in (code, -number), error[-2000:]
    assert "Traceback" not in error


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize("error", ["ImportError", "RuntimeError", "AttributeError"])
def test_an_interrupt_that_a_library_hides_keeps_its_exit_code(name: str, code: int, error: str) -> None:
    script = f"""
import signal, sys
from vitkit.cli._streams import guarded, prepare_process

def import_library():
    try:
        signal.raise_signal(signal.{name})
    except BaseException:
        raise {error}("No module named 'version'")

prepare_process()
sys.exit(guarded(import_library))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stderr) == (code, "vitkit: interrupted\n")
