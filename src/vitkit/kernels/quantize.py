"""Quantization to 8-bit integers with a C kernel, optionally after a LayerNorm."""

import ctypes

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vitkit.kernels import library


class Quantize(ctypes.Structure):
    """Arguments of one call of the quantization kernel. The layout is that of `struct quantize` in the C file."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("epsilon", ctypes.c_float),
        ("inverse", ctypes.c_float),
        ("zero", ctypes.c_float),
        ("is_bfloat16", ctypes.c_int32),
    )


def available() -> bool:
    """Returns whether the kernel is compiled and the CPU supports AVX-512."""
    return library.routine("quantize", "quantize") is not None


def quantize(
    x: Float[Tensor, "*b d"], scale: float, zero: int, norm: nn.LayerNorm | None = None
) -> UInt8[Tensor, "*b d"]:
    """Quantizes x to 8 bits: round(x / scale) + zero, clamped to 0..255. If `norm` is given, it is applied first.

    `x` is float32 or bfloat16 on a CPU, the norm a float32 LayerNorm over the last axis. Raises RuntimeError if the
    kernel is not `available`. Raises ValueError for other inputs.
    """
    routine = library.required("quantize", "quantize")
    if not supports(x):
        raise ValueError(
            f"the quantize kernel needs a float32 or bfloat16 tensor on a CPU, not {x.dtype} on {x.device}"
        )
    if norm is not None and not supports_norm(norm, x.shape[-1]):
        raise ValueError(f"the quantize kernel needs a float32 LayerNorm over {x.shape[-1]} channels, not {norm}")
    x = x.contiguous()
    out = torch.empty(x.shape, dtype=torch.uint8)
    width = x.shape[-1]
    call = Quantize(x.data_ptr(), None, None, out.data_ptr(), x.numel() // max(width, 1), width)
    call.inverse, call.zero, call.is_bfloat16 = 1 / scale, zero, x.dtype == torch.bfloat16
    if norm is not None:
        call.epsilon, call.weight = norm.eps, norm.weight.data_ptr()
        call.bias = None if norm.bias is None else norm.bias.data_ptr()
    routine(ctypes.byref(call), torch.get_num_threads())
    return out


def supports(x: Tensor) -> bool:
    """Returns whether `quantize` supports this input, which must be float32 or bfloat16 on a CPU."""
    return x.dtype in (torch.float32, torch.bfloat16) and x.device.type == "cpu"


def supports_norm(norm: nn.Module, width: int) -> bool:
    """Returns whether this norm is a plain float32 LayerNorm over the last axis on a CPU."""
    return (
        type(norm) is nn.LayerNorm
        and tuple(norm.normalized_shape) == (width,)
        and norm.elementwise_affine
        and norm.weight.dtype == torch.float32
        and norm.weight.device.type == "cpu"
    )
