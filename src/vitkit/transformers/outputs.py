"""What the models return: ordered, read by name, attribute or place; fields that are None do not count."""

from abc import ABC
from collections import OrderedDict
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree


class ModelOutput(OrderedDict[str, Any], ABC):
    """`output.logits`, `output["logits"]` and `output[1]` are the same; every kind is a dataclass of its fields."""

    def __init_subclass__(cls) -> None:
        # torch.export and torch.compile take outputs apart and put them together again.
        pytree.register_pytree_node(cls, _flatten, lambda values, names: cls(**dict(zip(names, values, strict=True))))

    def __post_init__(self) -> None:
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        first = getattr(self, names[0])
        if isinstance(first, dict) and not any(getattr(self, name) is not None for name in names[1:]):
            # Rebuilt from a mapping, as accelerate does: type(output)({...}).
            setattr(self, names[0], None)
            for name, value in first.items():
                self[name] = value
            return
        for name in names:
            if getattr(self, name) is not None:
                OrderedDict.__setitem__(self, name, getattr(self, name))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            if key not in self.keys():
                raise KeyError(f"no '{key}' here; there is {', '.join(self.keys())}")
            return OrderedDict.__getitem__(self, key)
        return self.to_tuple()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        OrderedDict.__setitem__(self, key, value)
        object.__setattr__(self, key, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.keys() and value is not None:
            OrderedDict.__setitem__(self, name, value)
        object.__setattr__(self, name, value)

    def __reduce__(self) -> Any:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]

    def to_tuple(self) -> tuple[Any, ...]:
        """The values that there are, in order."""
        return tuple(self[name] for name in self.keys())


def _flatten(output: ModelOutput) -> tuple[list[Any], list[str]]:
    return list(output.values()), list(output.keys())


Each = tuple[Tensor | None, ...] | None


@dataclass
class BaseModelOutputWithPooling(ModelOutput):
    """Tokens after the final norm (b, n, d), the pooled class token (b, d), and what was asked for of each layer.

    `hidden_states` has one more entry than layers, each before a layer, the last before the final norm (b, n, d);
    `attentions` one for each layer (b, h, n, n). Where only some were asked for, the others are None.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: Each = None
    attentions: Each = None


@dataclass
class ImageClassifierOutput(ModelOutput):
    """The loss where labels were given, logits (b, classes), and the layers as in `BaseModelOutputWithPooling`."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Each = None
    attentions: Each = None


@dataclass
class MaskedImageModelingOutput(ModelOutput):
    """The loss where a mask was given, pixels (b, c, height, width), and layers as in `BaseModelOutputWithPooling`."""

    loss: Tensor | None = None
    reconstruction: Tensor | None = None
    hidden_states: Each = None
    attentions: Each = None

    @property
    def logits(self) -> Tensor | None:
        """The older name of `reconstruction`."""
        return self.reconstruction


Output = BaseModelOutputWithPooling | ImageClassifierOutput | MaskedImageModelingOutput
__all__ = ["BaseModelOutputWithPooling", "ImageClassifierOutput", "MaskedImageModelingOutput", "ModelOutput", "Output"]
