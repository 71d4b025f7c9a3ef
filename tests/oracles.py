"""Other libraries that vitkit is compared with, which an environment may lack."""

import importlib
import importlib.util
from typing import Any

import pytest

PACKAGES = {"sklearn": "scikit-learn", "open_clip": "open_clip_torch"}


def oracle(module: str) -> Any:
    """A module of another library; skips the test, or the file that calls it, where that library is not installed."""
    library = module.partition(".")[0]
    spec = importlib.util.find_spec(library)
    # Without the libraries the folders tests/transformers and tests/jax are found, as packages without a file.
    if spec is None or spec.origin is None:
        package = PACKAGES.get(library, library)
        pytest.skip(f"the oracle is {package}: pip install {package}", allow_module_level=True)
    return importlib.import_module(module)
