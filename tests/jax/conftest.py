"""The twin's tests: they need the `jax` extra, and run on one CPU device."""

import os

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
pytest.importorskip("jax", reason="needs the extra: pip install 'vitkit[jax]'")
pytest.importorskip("flax", reason="needs the extra: pip install 'vitkit[jax]'")
