"""Setup of the JAX tests: they need the `jax` extra and use one CPU device."""

import importlib.metadata
import os

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compilation dominates the run time; JAX_DISABLE_MOST_OPTIMIZATIONS=0 tests the optimized code in twice the time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# The older code generator, in one part, compiles in half the time. XLA exits at an unknown flag, so only the versions
# that were tested get it.
if any(each.version.startswith("0.10.") for each in importlib.metadata.distributions(name="jaxlib")):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1")
pytest.importorskip("jax", reason="needs the extra: pip install 'vitkit[jax]'")
pytest.importorskip("flax", reason="needs the extra: pip install 'vitkit[jax]'")
