"""SIGKILL at random moments of saves: the newest complete checkpoint is loaded, with the saved content."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("save_until_killed.py")


# By default, tests/test_atomic.py kills a writer at each of its system calls.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "kills"),
    [
        ("full", 3),
        ("sharded", 5),
        ("full", 50),
        ("sharded", 50),
        ("two", 50),
    ],
)
def test_a_kill_loses_only_the_checkpoint_being_written(tmp_path: Path, kind: str, kills: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), kind, str(tmp_path / "checkpoints"), str(kills), "0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["good"] == kills
    assert found["damaged"] == 0
    assert found["cut short"] > 0  # at least one kill must hit a save
