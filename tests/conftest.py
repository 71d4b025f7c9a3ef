"""Shared fixtures: the shared data folder, requirements on the CPU, and shape checks for all tests."""

import atexit
import gc
import os
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# The tests check the shape annotations of layers, models and objectives in every call.
if os.environ.get("VITKIT_CHECK_SHAPES", "1") == "1":
    install_import_hook(["vitkit.layers", "vitkit.models", "vitkit.objectives"], "beartype.beartype")

if "PYTEST_XDIST_WORKER" in os.environ:
    atexit.register(os._exit, 0)

SHARED = Path(os.environ.get("VITKIT_SHARED", Path(__file__).parents[2] / "shared"))
STARTED = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=float, default=None, help="skip, by name, tests not reached in so many minutes")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collects tests without garbage collection, whose later passes skip the modules and tests loaded so far."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real photos, weights and oracles; skips the test if the folder is missing."""
    if not SHARED.is_dir():
        pytest.skip("needs the shared data folder; set VITKIT_SHARED to it")
    return SHARED


def _machine(ability: str) -> bool:
    import torch

    from vitkit.inference.engine.capabilities import capabilities

    return getattr(capabilities(torch.device("cpu")), ability)


def _kernel(name: str) -> bool:
    from importlib import import_module

    return import_module(f"vitkit.kernels.{name}").available()


# Requirements on the CPU by name: the reason in the skip message, and the check.
NEEDS: dict[str, tuple[str, Callable[[], bool]]] = {
    "bfloat16": ("a CPU with bfloat16 products (AVX-512 BF16 or AMX)", lambda: _machine("bfloat16")),
    "int8": ("a CPU with exact 8-bit products (AVX-512 VNNI)", lambda: _machine("int8")),
    "packs": ("oneDNN's packed products (an x86 CPU)", lambda: _machine("packs")),
    "attention kernel": ("a C compiler at installation and a CPU with AVX-512 BF16", lambda: _kernel("attention")),
    "quantize kernel": ("a C compiler at installation and a CPU with AVX-512", lambda: _kernel("quantize")),
    "resize kernel": ("a C compiler at installation and a CPU with AVX2", lambda: _kernel("resize")),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips tests marked with `needs(ABILITY)` that this CPU cannot run, and every test after the time limit."""
    minutes = item.config.getoption("minutes")
    if minutes is not None and time.monotonic() - STARTED > 60 * minutes:
        pytest.skip(f"{item.nodeid} was not reached in {minutes:g} minutes")
    for mark in item.iter_markers("needs"):
        (ability,) = mark.args
        reason, supported = NEEDS[ability]
        if not supported():
            pytest.skip(f"needs {reason}")
