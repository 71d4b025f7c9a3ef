"""`BatchFeature`: what the image processor returns, and the kinds of arrays it comes in."""

from collections import UserDict
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np


def _to_torch(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(array)


def _to_jax(array: np.ndarray) -> Any:
    from vitkit.transformers.flax import to_jax

    return to_jax(array)


def _to_tensorflow(array: np.ndarray) -> Any:
    try:
        return import_module("tensorflow").constant(array)
    except ModuleNotFoundError:
        raise ImportError('return_tensors="tf" needs TensorFlow: pip install tensorflow') from None


KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "pt": _to_torch,
    "np": np.asarray,
    "jax": _to_jax,
    "tf": _to_tensorflow,
}


class BatchFeature(UserDict[str, Any]):
    """Arrays by name, also as attributes: `batch.pixel_values`; `model(**batch)` takes them."""

    def __init__(self, data: Mapping[str, Any] | None = None, tensor_type: Any = None):
        super().__init__(dict(data or {}))
        self.convert_to_tensors(tensor_type)

    def __getattr__(self, name: str) -> Any:
        if name == "data" or name not in self.data:
            raise AttributeError(f"there is no '{name}' here; there is {', '.join(self.__dict__.get('data', {}))}")
        return self.data[name]

    def convert_to_tensors(self, tensor_type: Any = None) -> "BatchFeature":
        """Turns lists of arrays into one array of a kind: "pt", "np", "jax", "tf"; None leaves them as they are.

        Raises ValueError for another kind and for arrays of different shapes, ImportError where the library is missing.
        """
        kind = getattr(tensor_type, "value", tensor_type)
        if kind is None:
            return self
        if kind not in KINDS:
            raise ValueError(f"unknown return_tensors {tensor_type!r}; there is {', '.join(map(repr, KINDS))} and None")
        for name, value in self.data.items():
            if isinstance(value, list) and len({np.shape(item) for item in value}) > 1:
                raise ValueError(
                    f"the pictures of '{name}' have different shapes: use return_tensors=None, or resize them"
                )
            self.data[name] = KINDS[kind](np.stack(value) if isinstance(value, list) else value)
        return self

    def to(self, *args: Any, **kwargs: Any) -> "BatchFeature":
        """Moves torch tensors, arguments as of `Tensor.to`; only those of floats change their type."""
        import torch

        device = kwargs.get("device")
        for argument in args:
            if isinstance(argument, str | int | torch.device):
                device = argument
        for name, value in self.data.items():
            if isinstance(value, torch.Tensor):
                self.data[name] = value.to(*args, **kwargs) if value.is_floating_point() else value.to(device=device)
        return self
