"""Setup of the JAX tests: they need the `jax` extra and use one CPU device."""

import os

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compilation dominates the run time; JAX_DISABLE_MOST_OPTIMIZATIONS=0 tests the optimized code in twice the time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
pytest.importorskip("jax", reason="needs the extra: pip install 'vitkit[jax]'")
pytest.importorskip("flax", reason="needs the extra: pip install 'vitkit[jax]'")
