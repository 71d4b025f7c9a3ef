"""Attention in bfloat16 by one call of C: softmax(q k^T / sqrt(k) + bias) v, logits and sums in float32."""

import ctypes
from functools import lru_cache

import torch
from jaxtyping import BFloat16, Float
from torch import Tensor

from vitkit.kernels import library

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


def available() -> bool:
    """Whether `attention` can be called here: it was compiled, and the CPU has AVX-512 with bfloat16."""
    return library.routine("attention", "attention") is not None


@lru_cache(maxsize=1)
def tiles() -> bool:
    """Whether the CPU multiplies whole tiles (Intel AMX): torch's own attention is then the faster one."""
    ask = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(ask is not None and ask())


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
) -> BFloat16[Tensor, "b m d"]:
    """The attended values, heads side by side; `bias` broadcasts to (b, h, m, n).

    Tensors may be views. Raises RuntimeError where it is not `available`, ValueError for what it does not take
    (`takes`) and for shapes that do not fit; memory that is refused is a MemoryError.
    """
    routine = library.required("attention", "attention")
    b, h, m, width = q.shape
    n = k.shape[2]
    if not takes(q, k, v) or k.shape != (b, h, n, width) or v.shape != k.shape or n == 0:
        raise ValueError(
            f"attention takes bfloat16 heads on a CPU, not {q.dtype} {[*q.shape]}, {[*k.shape]}, {[*v.shape]}"
        )
    out = torch.empty(b, m, h * width, dtype=torch.bfloat16)
    call = Attention(
        _heads(q), _heads(k), _heads(v), None, (0, 0, 0), out.data_ptr(), None, (b, h, m, n, width), width**-0.5
    )
    if bias is not None:
        # Kept by this name until the call is over.
        bias = bias.float()
        bias = bias if bias.stride(-1) == 1 and bias.shape[-1] == n else bias.expand(*bias.shape[:-1], n).contiguous()
        bias = bias.expand(b, h, m, n)
        call.bias, call.bias_strides = bias.data_ptr(), bias.stride()[:3]
    if routine(ctypes.byref(call), torch.get_num_threads()):
        raise MemoryError("attention found no memory to work in")
    return out


def packed(
    qkv: BFloat16[Tensor, "b n three_d"], num_heads: int, rows: Float[Tensor, "b h n 2"] | None = None
) -> BFloat16[Tensor, "b n d"]:
    """`attention` of query, key and value that lie in one dense tensor, (3, h, k) its last axis; `rows` as there.

    Nothing but the addresses is worked out in Python, which is felt in small networks. Raises RuntimeError where it is
    not `available`, ValueError for what it does not take (`takes_packed`); refused memory is a MemoryError.
    """
    routine = library.required("attention", "attention")
    if not takes_packed(qkv, num_heads):
        raise ValueError(
            f"packed attention takes bfloat16 on a CPU, not {qkv.dtype} {[*qkv.shape]} for {num_heads} heads"
        )
    qkv = qkv.contiguous()
    b, n, three = qkv.shape
    width, start = three // (3 * num_heads), qkv.data_ptr()
    out = torch.empty(b, n, three // 3, dtype=torch.bfloat16)
    # Two bytes a number, and a third of them each for the queries, the keys and the values.
    q, k, v = (Heads(start + part * three // 3 * 2, n * three, width, three) for part in range(3))
    kept = None if rows is None else rows.data_ptr()
    call = Attention(q, k, v, None, (0, 0, 0), out.data_ptr(), kept, (b, num_heads, n, n, width), width**-0.5)
    if routine(ctypes.byref(call), torch.get_num_threads()):
        raise MemoryError("attention found no memory to work in")
    return out


def takes_packed(qkv: Tensor, num_heads: int) -> bool:
    """Whether this is what `packed` reads: bfloat16 on a CPU, heads of whole vectors."""
    if qkv.dtype != torch.bfloat16 or qkv.device.type != "cpu" or qkv.ndim != 3:
        return False
    return qkv.shape[2] % (3 * num_heads * LANES) == 0 and qkv.shape[1] > 0


def _heads(x: Tensor) -> Heads:
    return Heads(x.data_ptr(), *x.stride()[:3])
