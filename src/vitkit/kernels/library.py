"""Loading of the compiled C libraries; an installation without a C compiler lacks these libraries."""

import ctypes
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

# Version of the C interface; a library with another version is not used.
INTERFACE = 1
# The kernels that need AVX-512; the others need AVX2.
AVX512 = frozenset({"attention", "quantize"})


@lru_cache(maxsize=2)
def library(name: str = "native") -> ctypes.CDLL | None:
    """Loads a library: `native`, which uses torch's threads, or `images`, which is single-threaded.

    Returns None if it was not compiled, has another interface version, or VITKIT_KERNELS is 0.
    """
    if os.environ.get("VITKIT_KERNELS") == "0":
        return None
    if name == "native":
        # The kernels use torch's OpenMP runtime, so torch must be loaded first.
        import torch  # noqa: F401

    for path in sorted(Path(__file__).parent.glob(f"{name}.*")):
        try:
            loaded = ctypes.CDLL(str(path))
            if loaded.vitkit_interface() == INTERFACE:
                return loaded
        except (OSError, AttributeError):
            continue
    return None


@lru_cache(maxsize=8)
def routine(name: str, runs: str, file: str = "native") -> Callable[..., int] | None:
    """Returns the C function `vitkit_{name}`, or None if it is missing or the CPU does not support it.

    The C function `vitkit_{runs}_runs` checks the CPU. VITKIT_KERNELS=avx2 disables the kernels that need AVX-512.
    """
    if runs in AVX512 and os.environ.get("VITKIT_KERNELS") == "avx2":
        return None
    loaded = library(file)
    if loaded is None or not getattr(loaded, f"vitkit_{runs}_runs")():
        return None
    return getattr(loaded, f"vitkit_{name}")


def required(name: str, runs: str, file: str = "native") -> Callable[..., int]:
    """Returns the C function `vitkit_{name}`. Raises RuntimeError if it is not available."""
    function = routine(name, runs, file)
    if function is None:
        raise RuntimeError(
            f"kernel '{name}' is not available: it was not compiled, this CPU does not support it, "
            "or VITKIT_KERNELS disables it"
        )
    return function
