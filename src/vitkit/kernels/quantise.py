"""Numbers to whole numbers of 8 bits by one call of C, after a LayerNorm if there is one."""

import ctypes

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vitkit.kernels import library


class Quantise(ctypes.Structure):
    """All that one call needs: `struct quantise` of the C file."""

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
        ("brief", ctypes.c_int32),
    )


def available() -> bool:
    """Whether `quantise` can be called here: it was compiled, and the CPU has AVX-512."""
    return library.routine("quantise", "quantise") is not None


def quantise(
    x: Float[Tensor, "*b d"], scale: float, zero: int, norm: nn.LayerNorm | None = None
) -> UInt8[Tensor, "*b d"]:
    """round(x / scale) + zero, the ends of 0..255 for what lies beyond; of norm(x) where a norm is given.

    Takes float32 and bfloat16 on a CPU, and a norm over the last axis in float32. Raises RuntimeError where it is not
    `available`, ValueError for anything else.
    """
    routine = library.required("quantise", "quantise")
    if not takes(x):
        raise ValueError(f"quantise takes float32 or bfloat16 on a CPU, not {x.dtype} on {x.device}")
    if norm is not None and not normalises(norm, x.shape[-1]):
        raise ValueError(f"quantise takes a LayerNorm over {x.shape[-1]} channels in float32, not {norm}")
    x = x.contiguous()
    out = torch.empty(x.shape, dtype=torch.uint8)
    width = x.shape[-1]
    call = Quantise(x.data_ptr(), None, None, out.data_ptr(), x.numel() // max(width, 1), width)
    call.inverse, call.zero, call.brief = 1 / scale, zero, x.dtype == torch.bfloat16
    if norm is not None:
        call.epsilon, call.weight = norm.eps, norm.weight.data_ptr()
        call.bias = None if norm.bias is None else norm.bias.data_ptr()
    routine(ctypes.byref(call), torch.get_num_threads())
    return out


def takes(x: Tensor) -> bool:
    """Whether this is what `quantise` reads: float32 or bfloat16 on a CPU."""
    return x.dtype in (torch.float32, torch.bfloat16) and x.device.type == "cpu"


def normalises(norm: nn.Module, width: int) -> bool:
    """Whether `quantise` can do that norm: a plain LayerNorm of float32 numbers over the last axis."""
    return (
        type(norm) is nn.LayerNorm
        and tuple(norm.normalized_shape) == (width,)
        and norm.elementwise_affine
        and norm.weight.dtype == torch.float32
        and norm.weight.device.type == "cpu"
    )
