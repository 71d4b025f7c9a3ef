"""Makes a virtual environment on machines of every kind, externally managed ones and those without ensurepip included.

Usage: python3 scripts/venv.py FOLDER. Standard library only.
"""

import subprocess
import sys
from pathlib import Path

OLDEST = (3, 11)


def main(folder: Path) -> None:
    """Makes the environment at `folder`, with a pip that works; leaves with one line where that is not to be had."""
    if sys.version_info < OLDEST:
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(
            f"vitkit needs Python 3.11 or newer, this is {found}: name a newer one, as in `make PYTHON=python3.12`"
        )
    python = folder / "bin" / "python"
    if python.exists() and subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return
    # Debian and Ubuntu keep ensurepip in a package of its own (python3-venv); virtualenv brings its own pip.
    for command in (["venv", "--clear"], ["virtualenv", "--clear"]):
        if subprocess.run([sys.executable, "-m", *command, folder], capture_output=True).returncode == 0:
            return
    # Last, a pip of the system can be told to work for an environment that has none.
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], capture_output=True)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "pip"]
    if made.returncode == 0 and subprocess.run(pip, capture_output=True).returncode == 0:
        return
    sys.exit("this Python makes no virtual environments: `apt install python3-venv` or the like, then try again")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
