"""Attention that learns, in bfloat16: query, key and value in one tensor, forward and backward one call of C.

torch knows it as two operations of its own, so that autograd, its compiler and counters of operations see them.
"""

import ctypes

import torch
from jaxtyping import BFloat16
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from vitkit.kernels import attention, library


class Gradients(ctypes.Structure):
    """All that one backward pass needs: `struct gradients` of the C file."""

    _fields_ = (
        ("taken", ctypes.c_void_p * 3),
        ("strides", ctypes.c_int64 * 3),
        ("out", ctypes.c_void_p),
        ("dout", ctypes.c_void_p),
        ("row", ctypes.c_void_p),
        ("given", ctypes.c_void_p * 3),
        ("sizes", ctypes.c_int64 * 4),
        ("scale", ctypes.c_float),
        ("failed", ctypes.c_int32),
    )


def available() -> bool:
    """Whether `packed_attention` can be called here: see `attention.available`."""
    return library.routine("attention_backward", "attention") is not None


def better() -> bool:
    """Whether `packed_attention` is the way to go: it is there, no CPU with tiles (AMX) makes torch's own faster, and
    nobody records the operations for elsewhere or transforms them.
    """
    if torch.compiler.is_exporting() or torch._C._are_functorch_transforms_active():
        return False
    return _here()


def _here() -> bool:
    return available() and not attention.tiles()


# What torch.compiler.assume_constant_result does; calling that imports the whole compiler, a thousand modules.
_here.__dict__["_dynamo_marked_constant"] = True


def packed_attention(qkv: BFloat16[Tensor, "b n three_d"], num_heads: int) -> BFloat16[Tensor, "b n d"]:
    """softmax(q k^T / sqrt(k)) v, heads side by side; `qkv` is laid out as a `layers.Attention` projects it.

    Raises what `attention.packed` does.
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
    given = torch.empty_like(qkv)
    step = qkv.element_size() * num_heads * width

    def parts(whole: Tensor) -> ctypes.Array[ctypes.c_void_p]:
        return (ctypes.c_void_p * 3)(*(whole.data_ptr() + part * step for part in range(3)))

    call = Gradients(
        parts(qkv), (n * three, width, three), out.data_ptr(), dout.data_ptr(), rows.data_ptr(), parts(given),
        (b, num_heads, n, width), width**-0.5,
    )  # fmt: skip
    if routine(ctypes.byref(call), torch.get_num_threads()):
        raise MemoryError("the backward pass of attention found no memory to work in")
    return given


@_backward.register_fake
def _(dout: Tensor, qkv: Tensor, out: Tensor, rows: Tensor, num_heads: int) -> Tensor:
    return torch.empty_like(qkv)


def _keep(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], *output)
    ctx.num_heads = inputs[1]  # pyright: ignore[reportAttributeAccessIssue]
    ctx.set_materialize_grads(False)  # pyright: ignore[reportAttributeAccessIssue]


def _differentiate(ctx: torch.autograd.function.FunctionCtx, dout: Tensor, _: Tensor | None) -> tuple[Tensor, None]:
    return _backward(dout, *ctx.saved_tensors, ctx.num_heads), None  # pyright: ignore[reportAttributeAccessIssue]


_forward.register_autograd(_differentiate, setup_context=_keep)


@register_flop_formula(torch.ops.vitkit.packed_attention)
def _products(shape: tuple[int, int, int], num_heads: int, *_: object, **__: object) -> int:
    """Two products of a multiplication and an addition each."""
    b, n, three = shape
    return 4 * b * n * n * three // 3


@register_flop_formula(torch.ops.vitkit.packed_attention_backward)
def _five_products(shape: tuple[int, int, int], *_: object, **__: object) -> int:
    """Five, as torch counts its own: the logits are made again."""
    b, n, width = shape
    return 10 * b * n * n * width
