"""Runs the slow tests of recently changed folders: `python scripts/slow_tests.py [--hours H] [--minutes M]`.

A folder is changed if it differs from the last commit of the main line that is at least H hours older than the newest
commit, so that a fresh clone has the same result. Without such a commit (a shallow clone) every folder is changed.
`src/vitkit/NAME` and `tests/NAME` both stand for `tests/NAME`. No test starts after M minutes; the remaining ones are
reported as skipped. If the run does not end within 15 more minutes, a test hangs, and the script fails.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
NO_TESTS = 5  # exit code of pytest without slow tests
MINUTES_TO_FINISH = 15


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def changed_folders(hours: float) -> list[str]:
    """Returns test folders whose code or tests changed in the hours before the newest commit."""
    before = int(git("log", "-1", "--format=%ct")) - int(3600 * hours)
    base = git("rev-list", "-1", "--first-parent", f"--before={before}", "HEAD")
    paths = git("diff", "--name-only", "--no-renames", base, "HEAD") if base else git("ls-files")
    parts = [Path(path).parts for path in paths.splitlines()]
    names = {each[2] for each in parts if each[:2] == ("src", "vitkit") and len(each) > 3}
    names |= {each[1] for each in parts if each[0] == "tests" and len(each) > 2}
    return sorted(f"tests/{name}" for name in names if (TESTS / name).is_dir())


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the slow tests of recently changed folders.")
    parser.add_argument("--hours", type=float, default=4.0, help="age of changes in hours")
    parser.add_argument("--minutes", type=float, default=15.0, help="no test starts after this time")
    options = parser.parse_args()
    folders = changed_folders(options.hours)
    print(f"slow tests of changed folders: {' '.join(folders) or 'none'}", flush=True)
    if not folders:
        return 0
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-q", "--durations", "10", "-m", "slow"]
    try:
        done = subprocess.run(
            [*command, "--minutes", str(options.minutes), *folders],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=60 * (options.minutes + MINUTES_TO_FINISH),
        )
    except subprocess.TimeoutExpired:
        print(f"a test hangs: the run did not end {MINUTES_TO_FINISH} minutes after the time limit", file=sys.stderr)
        return 1
    return 0 if done.returncode == NO_TESTS else done.returncode


if __name__ == "__main__":
    sys.exit(main())
