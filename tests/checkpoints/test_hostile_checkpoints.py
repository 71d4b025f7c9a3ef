"""Checkpoints from strangers: nothing runs, memory stays small, and one line says what is wrong."""

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

# Over what the process had before, for a refused file: the file twice and this much (reliability goals X6 and X7).
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

def refuse(path):
    try:
        checkpoints.load(path)
    except checkpoints.CheckpointError:
        return True
    return False

for folder in sys.argv[2:]:
    source, size = Path(folder, "source").read_text(), int(Path(folder, "size").read_text())
    for attempt in range(2):  # the first one imports what is imported late
        Path("/proc/self/clear_refs").write_text("5")
        before, start = peak(), time.perf_counter()
        refused = refuse(source)
        took, grown = time.perf_counter() - start, peak() - before
    print(Path(folder).name, refused, grown, size, took, sep="|")
"""


@pytest.mark.parametrize("name", CORPUS)
def test_it_is_refused_and_nothing_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_corpus_is_large_and_its_gadgets_are_live(tmp_path: Path) -> None:
    """A canary that cannot sing proves nothing: read without care, the gadgets run."""
    import pickle

    assert len(CORPUS) >= 100
    source = CORPUS["pickle_gadget_in_old_protocol"](tmp_path)
    pickle.loads(source.read_bytes())
    assert (tmp_path / "canary").exists()


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's peak memory meter")
def test_memory_of_refused_files(tmp_path: Path) -> None:
    folders = []
    for index, name in enumerate(CORPUS):
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
    assert len(lines) == len(CORPUS)
    report = {}
    for name, (_, refused, grown, size, took) in zip(CORPUS, lines, strict=True):
        assert refused == "True", name
        limit = BOMB if "bomb" in name else SMALL + 2 * int(size)
        if int(grown) > limit or float(took) > 5:
            report[name] = (int(grown), int(size), float(took))
    assert not report, json.dumps(report)
