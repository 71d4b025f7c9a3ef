"""Attention for bfloat16 tensors on the CPU, with a C kernel that computes logits and sums in float32."""

import ctypes
from functools import lru_cache

import torch
from jaxtyping import BFloat16, Float
from torch import Tensor

from vitkit.kernels import library

# Number of float32 values in a vector register; the width of a head must be a multiple of it.
VECTOR = 16


class Heads(ctypes.Structure):
    """Address and strides of a tensor (b, h, n, width). The layout is that of `struct heads` in the C file."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("image", ctypes.c_int64),
        ("head", ctypes.c_int64),
        ("token", ctypes.c_int64),
    )


class Attention(ctypes.Structure):
    """Arguments of one call of the attention kernel. The layout is that of `struct attention` in the C file."""

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
    """Returns whether the kernel is compiled and the CPU supports AVX-512 with bfloat16."""
    return library.routine("attention", "attention") is not None


@lru_cache(maxsize=1)
def tiles() -> bool:
    """Returns whether the CPU has Intel AMX tiles, with which torch's attention is faster than this kernel."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported is not None and supported())


def supports(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Returns whether the kernel supports query, key and value: bfloat16, on a CPU, head width a multiple of 16."""
    return q.shape[-1] % VECTOR == 0 and all(
        each.dtype == torch.bfloat16 and each.stride(-1) == 1 and each.device.type == "cpu" for each in (q, k, v)
    )


def attention(
    q: BFloat16[Tensor, "b h m k"],
    k: BFloat16[Tensor, "b h n k"],
    v: BFloat16[Tensor, "b h n k"],
    bias: Float[Tensor, "..."] | None = None,
) -> BFloat16[Tensor, "b m d"]:
    """Computes attention, softmax(q k^T / sqrt(head width) + bias) v, and concatenates the heads.

    `bias` broadcasts to (b, h, m, n). Tensors can be views. Raises RuntimeError if the kernel is not `available`,
    ValueError for unsupported inputs (`supports`) and for shapes that do not match, and MemoryError if an allocation
    fails.
    """
    routine = library.required("attention", "attention")
    b, h, m, width = q.shape
    n = k.shape[2]
    if not supports(q, k, v) or k.shape != (b, h, n, width) or v.shape != k.shape or n == 0:
        raise ValueError(
            "the attention kernel needs bfloat16 heads of matching shapes on a CPU, "
            f"not {q.dtype} {[*q.shape]}, {[*k.shape]}, {[*v.shape]}"
        )
    out = torch.empty(b, m, h * width, dtype=torch.bfloat16)
    call = Attention(
        _heads(q), _heads(k), _heads(v), None, (0, 0, 0), out.data_ptr(), None, (b, h, m, n, width), width**-0.5
    )
    if bias is not None:
        # This variable keeps the tensor alive until the call returns.
        bias = bias.float()
        bias = bias if bias.stride(-1) == 1 and bias.shape[-1] == n else bias.expand(*bias.shape[:-1], n).contiguous()
        bias = bias.expand(b, h, m, n)
        call.bias, call.bias_strides = bias.data_ptr(), bias.stride()[:3]
    if routine(ctypes.byref(call), torch.get_num_threads()):
        raise MemoryError("the attention kernel could not allocate its buffers")
    return out


def packed(
    qkv: BFloat16[Tensor, "b n three_d"], num_heads: int, rows: Float[Tensor, "b h n 2"] | None = None
) -> BFloat16[Tensor, "b n d"]:
    """Computes `attention` for query, key and value in one tensor, with a last axis of (3, heads, head width).

    `rows` receives the row statistics for the backward pass. Python computes addresses only, which matters for small
    networks. Raises RuntimeError if the kernel is not `available`. Raises ValueError for unsupported inputs
    (`supports_packed`), and MemoryError if an allocation fails.
    """
    routine = library.required("attention", "attention")
    if not supports_packed(qkv, num_heads):
        raise ValueError(
            "the packed attention kernel needs a 3-d bfloat16 tensor on a CPU and a head width of 16, 32, 48, ...; "
            f"got {qkv.dtype} on {qkv.device}, shape {[*qkv.shape]}, num_heads={num_heads}"
        )
    qkv = qkv.contiguous()
    b, n, three = qkv.shape
    width, start = three // (3 * num_heads), qkv.data_ptr()
    out = torch.empty(b, n, three // 3, dtype=torch.bfloat16)
    # Two bytes per value; a third of the last axis each is queries, keys and values.
    q, k, v = (Heads(start + part * three // 3 * 2, n * three, width, three) for part in range(3))
    statistics = None if rows is None else rows.data_ptr()
    call = Attention(q, k, v, None, (0, 0, 0), out.data_ptr(), statistics, (b, num_heads, n, n, width), width**-0.5)
    if routine(ctypes.byref(call), torch.get_num_threads()):
        raise MemoryError("the attention kernel could not allocate its buffers")
    return out


def supports_packed(qkv: Tensor, num_heads: int) -> bool:
    """Returns whether `packed` supports the input: bfloat16, on a CPU, head width a multiple of 16."""
    if qkv.dtype != torch.bfloat16 or qkv.device.type != "cpu" or qkv.ndim != 3:
        return False
    return qkv.shape[2] % (3 * num_heads * VECTOR) == 0 and qkv.shape[1] > 0


def _heads(x: Tensor) -> Heads:
    return Heads(x.data_ptr(), *x.stride()[:3])
