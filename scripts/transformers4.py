"""Installs transformers 4.57.6, the last version 4, into a folder for the tests that compare with it.

Usage: run `python scripts/transformers4.py FOLDER` with the Python of the test environment, and set
VITKIT_TRANSFORMERS4=FOLDER for the tests. A test process that has FOLDER first in PYTHONPATH imports transformers 4 and
the versions of its dependencies from there. This script uses the standard library only.
"""

import subprocess
import sys
from pathlib import Path

VERSION = "4.57.6"


def main(folder: Path) -> None:
    """Installs transformers into the folder, unless it contains it already."""
    if (folder / f"transformers-{VERSION}.dist-info").is_dir():
        return
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-warn-conflicts", "--target", folder]
    subprocess.run([*pip, f"transformers=={VERSION}"], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
