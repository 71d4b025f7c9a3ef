"""FLOPs (floating-point operations) per image of the forward pass, counted for each torch operation."""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from vitkit import models
from vitkit.evaluation import ModelOutputs
from vitkit.evaluation.requirements import EvaluationData
from vitkit.models import Backbone

READS = "model"
FRACTIONS = False

_ATEN = torch.ops.aten
# torch 2.9 has no FLOP formula for attention on CPUs. Its matrix products are those of the GPU kernels.
_ON_CPU = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[_ATEN._scaled_dot_product_flash_attention],
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _ATEN._scaled_dot_product_flash_attention_backward
    ],
}


class FlopCounter(TorchDispatchMode):
    """Context manager that counts the FLOPs of torch operations, including those of backward passes.

    A multiplication and an addition count as two FLOPs. Only operations with a formula in torch are counted: matrix
    products, convolutions and attention, but not norms and activations. Operations inside `exclude_recomputation` are
    not counted, so activation checkpointing does not change the total.
    """

    # Process-wide counters, because on GPUs the backward pass runs in another thread.
    counting = 0
    _excluded = 0

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __enter__(self) -> Self:
        """Starts counting."""
        FlopCounter.counting += 1
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        """Stops counting."""
        FlopCounter.counting -= 1
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs a torch operation and counts its FLOPs."""
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket) or _ON_CPU.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:  # without autograd, composite operations arrive undecomposed
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if formula is not None and not FlopCounter._excluded:
            self.total += formula(*args, **kwargs, out_val=out)
        return out


@contextmanager
def _uncounted() -> Iterator[None]:
    FlopCounter._excluded += 1
    try:
        yield
    finally:
        FlopCounter._excluded -= 1


def exclude_recomputation() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """`context_fn` for `torch.utils.checkpoint` that makes `FlopCounter` ignore the recomputation."""
    return nullcontext(), _uncounted()


def check(data: EvaluationData) -> tuple[str, ...]:
    """Returns the names of the metrics, without any checks."""
    return ("giga", "million_parameters")


def evaluate(subject: ModelOutputs) -> dict[str, float]:
    """Returns `giga` (GFLOPs of the forward pass of one image) and `million_parameters`.

    For an exported model, both are those of the model that was exported.
    """
    model = subject.original_model
    parameters = sum(parameter.numel() for parameter in (_twin(model) if model.is_exported else model).parameters())
    return {"giga": flops(model) / 1e9, "million_parameters": parameters / 1e6}


def flops(model: Backbone, image_size: tuple[int, int] | None = None) -> int:
    """Returns the FLOPs of the forward pass of one image.

    `image_size` is (height, width) in pixels and defaults to that of the model. The pass runs on the meta device.
    """
    size = image_size or model.config.image_size
    twin = _twin(model)
    dtype = next(twin.parameters()).dtype
    with FlopCounter() as count, torch.no_grad():
        twin(torch.empty(1, model.config.channels, *size, device="meta", dtype=dtype))
    return count.total


def _twin(model: Backbone) -> Backbone:
    """Returns a copy of the model on the meta device. An exported model is built again from its config."""
    return (models.build(model.config, device="meta") if model.is_exported else copy.deepcopy(model).to("meta")).eval()
