"""Malicious checkpoints: no code runs, memory stays small, and the error is one line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hostile import CORPUS

from vitkit import checkpoints
from vitkit.checkpoints import CheckpointError

# Limit of additional memory for a rejected file: twice its size plus this (reliability goals X6 and X7).
SMALL = 64 << 20
BOMB = 32 << 20

METER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from hostile import CORPUS
import torch
from vitkit import checkpoints, models
import vitkit.checkpoints.containers.npz, vitkit.checkpoints.containers.pickled
import vitkit.checkpoints.containers.safetensors, vitkit.checkpoints.containers.sharded
from vitkit.checkpoints.formats import all_formats
all_formats()

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

def is_rejected(path):
    try:
        checkpoints.load(path)
    except checkpoints.CheckpointError:
        return True
    return False

for folder in sys.argv[2:]:
    source, size = Path(folder, "source").read_text(), int(Path(folder, "size").read_text())
    for attempt in range(2):  # the first attempt triggers lazy imports
        Path("/proc/self/clear_refs").write_text("5")
        before, start = peak(), time.process_time()
        rejected = is_rejected(source)
        took, grown = time.process_time() - start, peak() - before
    print(Path(folder).name, rejected, grown, size, took, sep="|")
"""


@pytest.mark.parametrize("name", CORPUS)
def test_it_is_rejected_and_runs_no_code(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    source = CORPUS[name](tmp_path)
    before = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load(source)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    assert "Traceback" not in message
    assert not re.search(r"0x[0-9a-f]{6,}", message)
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} == before


def test_corpus_is_large_and_its_gadgets_work(tmp_path: Path) -> None:
    """An unsafe load runs the gadgets, so the other tests would detect them."""
    import pickle

    assert len(CORPUS) >= 100
    source = CORPUS["pickle_gadget_in_old_protocol"](tmp_path)
    pickle.loads(source.read_bytes())
    assert (tmp_path / "canary").exists()


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's peak memory meter")
@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_memory_of_rejected_files(tmp_path: Path, every: int) -> None:
    names, folders = list(CORPUS)[::every], []
    for index, name in enumerate(names):
        folder = tmp_path / f"{index:03}"
        folder.mkdir()
        source = CORPUS[name](folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        (folder / "source").write_text(str(source))
        (folder / "size").write_text(str(size))
        folders.append(str(folder))
    command = [sys.executable, "-c", METER, str(Path(__file__).parent), *folders]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    lines = [line.split("|") for line in result.stdout.splitlines()]
    assert len(lines) == len(names)
    report = {}
    for name, (_, rejected, grown, size, took) in zip(names, lines, strict=True):
        assert rejected == "True", name
        limit = BOMB if "bomb" in name else SMALL + 2 * int(size)
        if int(grown) > limit or float(took) > 5:
            report[name] = (int(grown), int(size), float(took))
    assert not report, json.dumps(report)
