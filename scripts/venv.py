"""Creates a virtual environment, also on externally managed systems and without ensurepip.

Usage: python3 scripts/venv.py FOLDER. Standard library only.
"""

import subprocess
import sys
from pathlib import Path

OLDEST = (3, 11)


def main(folder: Path) -> None:
    """Creates the environment at `folder` with a working pip; exits with one line if that is not possible."""
    if sys.version_info < OLDEST:
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"vitkit needs Python 3.11 or newer, not {found}; choose one, such as `make PYTHON=python3.12`")
    python = folder / "bin" / "python"
    if python.exists() and subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return
    # Debian and Ubuntu have ensurepip in a separate package (python3-venv); virtualenv has its own pip.
    for command in (["venv", "--clear"], ["virtualenv", "--clear"]):
        if subprocess.run([sys.executable, "-m", *command, folder], capture_output=True).returncode == 0:
            return
    # At last, use the pip of the system for an environment without pip.
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], capture_output=True)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "pip"]
    if made.returncode == 0 and subprocess.run(pip, capture_output=True).returncode == 0:
        return
    sys.exit(
        "this Python cannot create virtual environments; install python3-venv (such as `apt install python3-venv`)"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
