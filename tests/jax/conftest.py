"""The twin's tests: they need the `jax` extra, and run on one CPU device."""

import os

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling takes most of the time here; JAX_DISABLE_MOST_OPTIMIZATIONS=0 tests what users run, in twice the time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
pytest.importorskip("jax", reason="needs the extra: pip install 'vitkit[jax]'")
pytest.importorskip("flax", reason="needs the extra: pip install 'vitkit[jax]'")
