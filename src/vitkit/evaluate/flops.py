"""How much arithmetic one image costs, counted operation by operation."""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from vitkit.evaluate import Subject
from vitkit.models import Backbone

READS = "model"

_ATEN = torch.ops.aten
# Attention on a CPU, which torch 2.9 counts in no formula: its products are those of the attention kernels of GPUs.
_ON_CPU = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[_ATEN._scaled_dot_product_flash_attention],
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _ATEN._scaled_dot_product_flash_attention_backward
    ],
}


class Count(TorchDispatchMode):
    """Adds up the floating-point operations of all that runs while it is entered, backward passes included, in `total`.

    A multiplication and an addition count as two. Counted is what torch has formulas for: matrix products,
    convolutions and attention, not norms and activations. What `recomputing` wraps is left out: it is done twice, and
    is worth one.
    """

    # Of the process, not of the thread: on GPUs another thread runs the backward pass.
    counting = 0
    _left_out = 0

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __enter__(self) -> Self:
        """Counts from here on."""
        Count.counting += 1
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """To here."""
        Count.counting -= 1
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation, and counts it."""
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket) or _ON_CPU.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:  # outside of autograd, whole functions arrive rather than what they consist of
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if formula is not None and not Count._left_out:
            self.total += formula(*args, **kwargs, out_val=out)
        return out


@contextmanager
def _uncounted() -> Iterator[None]:
    Count._left_out += 1
    try:
        yield
    finally:
        Count._left_out -= 1


def recomputing() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What `torch.utils.checkpoint` takes as `context_fn`, so that a `Count` leaves the second forward pass out."""
    return nullcontext(), _uncounted()


def evaluate(subject: Subject) -> dict[str, float]:
    """`giga`, billions of floating-point operations an image, and `million_parameters`."""
    parameters = sum(parameter.numel() for parameter in subject.exact.parameters())
    return {"giga": flops(subject.exact) / 1e9, "million_parameters": parameters / 1e6}


def flops(model: Backbone, image_size: tuple[int, int] | None = None) -> int:
    """Floating-point operations of one forward pass of one image, as `Count` has them.

    `image_size` is (rows, columns), the model's own by default. Nothing is computed: it runs on the meta device.
    """
    size = image_size or model.config.image_size
    twin = copy.deepcopy(model).to("meta").eval()
    dtype = next(twin.parameters()).dtype
    with Count() as count, torch.no_grad():
        twin(torch.empty(1, model.config.channels, *size, device="meta", dtype=dtype))
    return count.total
