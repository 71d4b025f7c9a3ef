"""Shared fixtures: where the data at hand lies, and shape checks switched on for the whole test run."""

import os
import time
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Shape annotations cost nothing in production; here every call of a layer or a model checks them.
if os.environ.get("VITKIT_CHECK_SHAPES", "1") == "1":
    install_import_hook(["vitkit.layers", "vitkit.models", "vitkit.objectives"], "beartype.beartype")

SHARED = Path(os.environ.get("VITKIT_SHARED", Path(__file__).parents[2] / "shared"))
STARTED = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=float, default=None, help="skip, by name, tests not reached in so many minutes")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("minutes")
    if minutes is not None and time.monotonic() - STARTED > 60 * minutes:
        pytest.skip(f"{item.nodeid} was not reached in {minutes:g} minutes")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real photos, weights and oracles; skips when this machine does not have it."""
    if not SHARED.is_dir():
        pytest.skip("needs the shared data folder: set VITKIT_SHARED to it")
    return SHARED
