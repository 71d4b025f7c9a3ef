"""Attention in bfloat16 by one call of C: softmax(q k^T / sqrt(k) + bias) v, logits and sums in float32."""

import ctypes
from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import BFloat16, Float
from torch import Tensor

from vitkit.kernels.library import library

# Channels of a head come in vectors of this many.
LANES = 16


class Heads(ctypes.Structure):
    """Where a tensor (b, h, n, width) is and how it lies: `struct heads` of the C file."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("picture", ctypes.c_int64),
        ("head", ctypes.c_int64),
        ("token", ctypes.c_int64),
    )


class Attention(ctypes.Structure):
    """All that one call needs: `struct attention` of the C file."""

    _fields_ = (
        ("q", Heads),
        ("k", Heads),
        ("v", Heads),
        ("bias", ctypes.c_void_p),
        ("bias_strides", ctypes.c_int64 * 3),
        ("out", ctypes.c_void_p),
        ("row", ctypes.c_void_p),
        ("sizes", ctypes.c_int64 * 5),
        ("scale", ctypes.c_float),
        ("failed", ctypes.c_int32),
    )


@lru_cache(maxsize=1)
def _routine() -> Callable[[object, int], int] | None:
    """The C routine where this machine can run it."""
    found = library()
    if found is None or not found.vitkit_attention_runs():
        return None
    routine = found.vitkit_attention
    routine.argtypes = (ctypes.c_void_p, ctypes.c_int)
    return routine


def available() -> bool:
    """Whether `attention` can be called here: it was compiled, and the CPU has AVX-512 with bfloat16."""
    return _routine() is not None


def takes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether these are what `attention` reads: bfloat16 on a CPU, heads of whole vectors, the last axis dense."""
    return q.shape[-1] % LANES == 0 and all(
        each.dtype == torch.bfloat16 and each.stride(-1) == 1 and each.device.type == "cpu" for each in (q, k, v)
    )


def attention(
    q: BFloat16[Tensor, "b h m k"],
    k: BFloat16[Tensor, "b h n k"],
    v: BFloat16[Tensor, "b h n k"],
    bias: Float[Tensor, "..."] | None = None,
    rows: Float[Tensor, "b h m 2"] | None = None,
) -> BFloat16[Tensor, "b m d"]:
    """The attended values, heads side by side; `bias` broadcasts to (b, h, m, n).

    Tensors may be views of one (b, n, 3, h, k). `rows`, float32 and dense, is filled with what the backward pass needs
    of every row of weights: its highest logit as a power of two, and one over its sum. Raises RuntimeError where it is
    not `available`, ValueError for what it does not take (`takes`) and for shapes that do not fit; memory that is
    refused is a MemoryError.
    """
    routine = _routine()
    if routine is None:
        raise RuntimeError("the kernels of vitkit are not compiled here, or this CPU cannot run them")
    b, h, m, width = q.shape
    n = k.shape[2]
    if not takes(q, k, v) or k.shape != (b, h, n, width) or v.shape != k.shape or n == 0:
        raise ValueError(
            f"attention takes bfloat16 heads on a CPU, not {q.dtype} {[*q.shape]}, {[*k.shape]}, {[*v.shape]}"
        )
    out = torch.empty(b, m, h * width, dtype=torch.bfloat16)
    sizes = (ctypes.c_int64 * 5)(b, h, m, n, width)
    call = Attention(_heads(q), _heads(k), _heads(v), None, (0, 0, 0), out.data_ptr(), None, sizes, width**-0.5)
    if rows is not None:
        call.row = rows.data_ptr()
    if bias is not None:
        # Kept by this name until the call is over.
        bias = bias.float()
        bias = bias if bias.stride(-1) == 1 and bias.shape[-1] == n else bias.expand(*bias.shape[:-1], n).contiguous()
        bias = bias.expand(b, h, m, n)
        call.bias, call.bias_strides = bias.data_ptr(), bias.stride()[:3]
    if routine(ctypes.byref(call), torch.get_num_threads()):
        raise MemoryError("attention found no memory to work in")
    return out


def _heads(x: Tensor) -> Heads:
    return Heads(x.data_ptr(), *x.stride()[:3])
