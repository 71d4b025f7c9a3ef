"""Shared fixtures: where the data at hand lies, and shape checks switched on for the whole test run."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Shape annotations cost nothing in production; here every call of a layer or a model checks them.
if os.environ.get("VITKIT_CHECK_SHAPES", "1") == "1":
    install_import_hook(["vitkit.layers", "vitkit.models", "vitkit.objectives"], "beartype.beartype")

SHARED = Path(os.environ.get("VITKIT_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real photos, weights and oracles; skips when this machine does not have it."""
    if not SHARED.is_dir():
        pytest.skip("needs the shared data folder: set VITKIT_SHARED to it")
    return SHARED
