"""JAX arrays of numpy ones: the one file of this folder that imports JAX."""

from typing import Any

import numpy as np


def to_jax(array: np.ndarray) -> Any:
    """The same numbers on JAX's default device; ImportError that says what to install where JAX is missing."""
    try:
        import jax.numpy as jnp
    except ModuleNotFoundError:
        raise ImportError("return_tensors=\"jax\" needs JAX: pip install 'vitkit[jax]'") from None
    return jnp.asarray(array)
