"""The compiled libraries beside this file, if the machine that vitkit was installed on had a C compiler."""

import ctypes
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

# The number in the C files: what is called has the arguments that are known here.
INTERFACE = 1
# The kernels that need AVX-512; the others need AVX2.
AVX512 = frozenset({"attention", "quantise"})


@lru_cache(maxsize=2)
def library(name: str = "native") -> ctypes.CDLL | None:
    """The library: `native`, which runs on torch's threads, or `pictures`, which has none.

    None where it was not compiled, is of another version of vitkit, or VITKIT_KERNELS is 0.
    """
    if os.environ.get("VITKIT_KERNELS") == "0":
        return None
    if name == "native":
        # torch brings the OpenMP runtime that these kernels share with it, and must be loaded before them.
        import torch  # noqa: F401

    for path in sorted(Path(__file__).parent.glob(f"{name}.*")):
        try:
            found = ctypes.CDLL(str(path))
            if found.vitkit_interface() == INTERFACE:
                return found
        except (OSError, AttributeError):
            continue
    return None


@lru_cache(maxsize=8)
def routine(name: str, runs: str, file: str = "native") -> Callable[..., int] | None:
    """The C function `vitkit_NAME` of that library where `vitkit_RUNS_runs` says that this machine can run it.

    VITKIT_KERNELS=avx2 disables the kernels that need AVX-512.
    """
    if runs in AVX512 and os.environ.get("VITKIT_KERNELS") == "avx2":
        return None
    found = library(file)
    if found is None or not getattr(found, f"vitkit_{runs}_runs")():
        return None
    return getattr(found, f"vitkit_{name}")


def required(name: str, runs: str, file: str = "native") -> Callable[..., int]:
    """The same; RuntimeError where there is none."""
    found = routine(name, runs, file)
    if found is None:
        raise RuntimeError(
            "the kernels of vitkit are not compiled here, this CPU cannot run them, or VITKIT_KERNELS switches them off"
        )
    return found
