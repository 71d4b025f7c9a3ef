"""Kernels: the few routines in C that a CPU runs faster than any composition of torch's operations.

library.py      finds what was compiled when vitkit was installed; a machine without a compiler has none of it
attention.c     attention in bfloat16 on AVX-512            attention.py    its interface

A kernel is an extra: whoever calls one asks `available` first and knows another way. It reads and writes the memory of
tensors, runs on the threads that torch runs on, and gives the same numbers whatever their count.
"""

from vitkit.kernels.attention import attention, available, takes

__all__ = ["attention", "available", "takes"]
