"""Installs transformers 4.57.6, the last version 4, into a folder, for tests that compare with it.

Usage: python scripts/transformers4.py FOLDER, with the Python of the environment; then set VITKIT_TRANSFORMERS4=FOLDER
for the tests. The folder has the package and its dependencies except torch: a process with the folder first in
PYTHONPATH uses it with the torch of its environment. Standard library only.
"""

import subprocess
import sys
from pathlib import Path

VERSION = "4.57.6"


def main(folder: Path) -> None:
    """Installs into the folder unless it is installed."""
    if (folder / f"transformers-{VERSION}.dist-info").is_dir():
        return
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-warn-conflicts", "--target", folder]
    subprocess.run([*pip, f"transformers=={VERSION}"], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
