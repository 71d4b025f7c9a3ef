"""Differentiable bfloat16 attention with C kernels, for query, key and value in one tensor.

Forward and backward pass are registered as custom operators, so that autograd, torch.compile and FLOP counters
support them.
"""

import ctypes
import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from jaxtyping import BFloat16
from torch import Tensor

from vitkit.kernels import attention, library


class Gradients(ctypes.Structure):
    """Arguments of one backward pass. The layout is that of `struct gradients` in the C file."""

    _fields_ = (
        ("inputs", ctypes.c_void_p * 3),
        ("strides", ctypes.c_int64 * 3),
        ("out", ctypes.c_void_p),
        ("dout", ctypes.c_void_p),
        ("row", ctypes.c_void_p),
        ("gradients", ctypes.c_void_p * 3),
        ("sizes", ctypes.c_int64 * 4),
        ("scale", ctypes.c_float),
        ("failed", ctypes.c_int32),
    )


def available() -> bool:
    """Returns whether this machine supports `packed_attention`, which needs AVX-512 with bfloat16."""
    return library.routine("attention_backward", "attention") is not None


def preferred() -> bool:
    """Returns whether `packed_attention` is available and faster than torch's attention (on CPUs without AMX).

    It is not used in torch.export and inside functorch transforms, which need torch's own operators.
    """
    if torch.compiler.is_exporting() or torch._C._are_functorch_transforms_active():
        return False
    return _faster_here()


def _faster_here() -> bool:
    return available() and not attention.tiles()


# As torch.compiler.assume_constant_result, whose import would load the complete compiler.
_faster_here.__dict__["_dynamo_marked_constant"] = True


def packed_attention(qkv: BFloat16[Tensor, "b n three_d"], num_heads: int) -> BFloat16[Tensor, "b n d"]:
    """Computes softmax(q k^T / sqrt(head width)) v from a fused qkv projection, and concatenates the heads.

    Raises the exceptions of `attention.packed`.
    """
    return _forward(qkv, num_heads)[0]


@torch.library.custom_op("vitkit::packed_attention", mutates_args=())
def _forward(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    rows = torch.empty(qkv.shape[0], num_heads, qkv.shape[1], 2)
    return attention.packed(qkv, num_heads, rows), rows


@_forward.register_fake
def _(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    b, n, width = qkv.shape
    return qkv.new_empty(b, n, width // 3), qkv.new_empty(b, num_heads, n, 2, dtype=torch.float32)


@torch.library.custom_op("vitkit::packed_attention_backward", mutates_args=())
def _backward(dout: Tensor, qkv: Tensor, out: Tensor, rows: Tensor, num_heads: int) -> Tensor:
    routine = library.required("attention_backward", "attention")
    b, n, three = qkv.shape
    width = three // (3 * num_heads)
    dout, qkv = dout.contiguous(), qkv.contiguous()
    gradients = torch.empty_like(qkv)
    step = qkv.element_size() * num_heads * width

    def parts(fused: Tensor) -> ctypes.Array[ctypes.c_void_p]:
        return (ctypes.c_void_p * 3)(*(fused.data_ptr() + part * step for part in range(3)))

    call = Gradients(
        parts(qkv), (n * three, width, three), out.data_ptr(), dout.data_ptr(), rows.data_ptr(), parts(gradients),
        (b, num_heads, n, width), width**-0.5,
    )  # fmt: skip
    if routine(ctypes.byref(call), torch.get_num_threads()):
        raise MemoryError("the backward kernel of attention could not allocate its buffers")
    return gradients


@_backward.register_fake
def _(dout: Tensor, qkv: Tensor, out: Tensor, rows: Tensor, num_heads: int) -> Tensor:
    return torch.empty_like(qkv)


def _save_for_backward(
    ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]
) -> None:
    ctx.save_for_backward(inputs[0], *output)
    ctx.num_heads = inputs[1]  # pyright: ignore[reportAttributeAccessIssue]
    ctx.set_materialize_grads(False)  # pyright: ignore[reportAttributeAccessIssue]


def _differentiate(ctx: torch.autograd.function.FunctionCtx, dout: Tensor, _: Tensor | None) -> tuple[Tensor, None]:
    return _backward(dout, *ctx.saved_tensors, ctx.num_heads), None  # pyright: ignore[reportAttributeAccessIssue]


_forward.register_autograd(_differentiate, setup_context=_save_for_backward)


def _forward_flops(shape: tuple[int, int, int], num_heads: int, *_: object, **__: object) -> int:
    """Returns the FLOPs of a forward pass, which are those of two matrix products."""
    b, n, three = shape
    return 4 * b * n * n * three // 3


def _backward_flops(shape: tuple[int, int, int], *_: object, **__: object) -> int:
    """Returns the FLOPs of a backward pass: five matrix products, one of which recomputes the logits."""
    b, n, width = shape
    return 10 * b * n * n * width


def _register_flops() -> None:
    from torch.utils.flop_counter import register_flop_formula

    register_flop_formula(torch.ops.vitkit.packed_attention)(_forward_flops)
    register_flop_formula(torch.ops.vitkit.packed_attention_backward)(_backward_flops)


class _RegisterFlops(MetaPathFinder):
    """Registers the FLOP formulas when torch's FLOP counter is imported.

    This module does not import the counter, because the counter imports triton, which takes 0.3 s. A FLOP counter
    copies the formulas when it is created, so they must be registered earlier.
    """

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Returns the spec of torch's FLOP counter, whose loader also registers the formulas, else None."""
        if fullname != FLOP_COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        loader: Any = None if spec is None else spec.loader
        if loader is not None:
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _register_flops()

            loader.exec_module = exec_module
        return spec


FLOP_COUNTER = "torch.utils.flop_counter"
if FLOP_COUNTER in sys.modules:
    _register_flops()
else:
    sys.meta_path.insert(0, _RegisterFlops())
