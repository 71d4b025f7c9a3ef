"""Loads the compiled C libraries. They are missing if vitkit was installed without a C compiler."""

import ctypes
import os
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

# Version of the C interface; a library with another version is not used.
INTERFACE = 1
# The functions of each library; a library compiled from older sources may lack some of them.
FUNCTIONS = {
    "native": ("attention", "attention_backward", "attention_runs", "quantize", "quantize_runs"),
    "images": ("resize", "resize_runs"),
}
# The kernels that need AVX-512; the others need AVX2.
AVX512 = frozenset({"attention", "quantize"})


@lru_cache(maxsize=2)
def library(name: str = "native") -> ctypes.CDLL | None:
    """Loads the C library `native`, which uses torch's threads, or `images`, which is single-threaded.

    Returns None if it was not compiled or if VITKIT_KERNELS is 0. Also returns None, with a warning, if it was compiled
    from older sources: with another interface version, or without one of its functions.
    """
    if os.environ.get("VITKIT_KERNELS") == "0":
        return None
    if name == "native":
        # The kernels use torch's OpenMP runtime, so torch must be loaded first.
        import torch  # noqa: F401

    outdated = None
    for path in sorted(Path(__file__).parent.glob(f"{name}.*")):
        try:
            loaded = ctypes.CDLL(str(path))
        except OSError:
            continue
        if _is_current(loaded, name):
            return loaded
        outdated = path.name
    if outdated is not None:
        warnings.warn(
            f"the C kernels in {outdated} were compiled from older sources and are not used; "
            "reinstall vitkit to compile them again (in a checkout: pip install -e .)",
            stacklevel=2,
        )
    return None


def _is_current(loaded: ctypes.CDLL, name: str) -> bool:
    """Returns whether a loaded library has the expected interface version and all functions of this version."""
    symbols = ("vitkit_interface", *(f"vitkit_{function}" for function in FUNCTIONS[name]))
    return all(hasattr(loaded, symbol) for symbol in symbols) and loaded.vitkit_interface() == INTERFACE


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
