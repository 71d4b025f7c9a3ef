"""Model outputs, which are ordered dicts with access by key, attribute or position.

Fields that are None are omitted.
"""

from abc import ABC
from collections import OrderedDict
from dataclasses import dataclass, fields
from typing import Any, Self

from torch import Tensor
from torch.utils import _pytree as pytree

from vitkit.transformers.recognition import recognized_class


class ModelOutput(OrderedDict[str, Any], ABC):
    """Base class of model outputs: an ordered dict whose values are also attributes.

    `output.logits`, `output["logits"]` and `output[1]` are the same.
    """

    def __init_subclass__(cls) -> None:
        # torch.export and torch.compile flatten outputs and rebuild them.
        pytree.register_pytree_node(cls, _flatten, lambda values, names: cls(**dict(zip(names, values, strict=True))))

    @property
    def __class__(self) -> type[Self]:  # type: ignore[override]
        """The class. If transformers is imported, a subclass that also inherits from its `ModelOutput`.

        The pipelines of transformers select outputs with isinstance: others become plain dicts without positions.
        """
        return recognized_class(type(self), "transformers.utils", "ModelOutput")

    def __post_init__(self) -> None:
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        first = getattr(self, names[0])
        if isinstance(first, dict) and not any(getattr(self, name) is not None for name in names[1:]):
            # accelerate rebuilds outputs from a dict: type(output)({...}).
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
                raise KeyError(f"no field '{key}'; the fields are {', '.join(self.keys())}")
            return OrderedDict.__getitem__(self, key)
        return self.to_tuple()[key]

    def __setitem__(self, key: str, value: object) -> None:
        OrderedDict.__setitem__(self, key, value)
        object.__setattr__(self, key, value)

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.keys() and value is not None:
            OrderedDict.__setitem__(self, name, value)
        object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]

    def to_tuple(self) -> tuple[Any, ...]:
        """Returns the values that are not None, in order."""
        return tuple(self[name] for name in self.keys())


def _flatten(output: ModelOutput) -> tuple[list[object], list[str]]:
    return list(output.values()), list(output.keys())


LayerOutputs = tuple[Tensor | None, ...] | None


@dataclass
class BaseModelOutput(ModelOutput):
    """Output of the encoder: tokens before the final norm (b, n, d), hidden states and attention weights.

    Layer outputs are those of `BaseModelOutputWithPooling`.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: LayerOutputs = None
    attentions: LayerOutputs = None


@dataclass
class BaseModelOutputWithPooling(ModelOutput):
    """Model output: final tokens (b, n, d), pooled class token (b, d), hidden states and attention weights.

    `hidden_states` contains the input of every layer and the output of the last one, before the final norm (b, n, d);
    `attentions` contains the attention weights of every layer (b, h, n, n). Entries of unselected layers are None.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: LayerOutputs = None
    attentions: LayerOutputs = None


@dataclass
class BaseModelOutputWithPoolingAndNoAttention(ModelOutput):
    """Model output: the last feature map (b, d, rows, columns), its mean (b, d, 1, 1), and the outputs of the stages.

    `hidden_states` contains the input of every stage and the output of the last one.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: LayerOutputs = None


@dataclass
class ImageClassifierOutputWithNoAttention(ModelOutput):
    """Model output: loss (if labels were given), logits (b, classes), and the outputs of the stages.

    `hidden_states` are those of `BaseModelOutputWithPoolingAndNoAttention`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: LayerOutputs = None


@dataclass
class BackboneOutput(ModelOutput):
    """Model output: feature maps of the chosen stages, hidden states and attention weights.

    The maps have the shape (b, d, rows, columns). Layer outputs are those of `BaseModelOutputWithPooling`.
    """

    feature_maps: tuple[Tensor, ...] | None = None
    hidden_states: LayerOutputs = None
    attentions: LayerOutputs = None


@dataclass
class ImageClassifierOutput(ModelOutput):
    """Model output: loss (if labels were given), logits (b, classes), hidden states and attention weights.

    Layer outputs are those of `BaseModelOutputWithPooling`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: LayerOutputs = None
    attentions: LayerOutputs = None


@dataclass
class MaskedLMOutput(ModelOutput):
    """Model output: loss (if labels were given), logits of visual tokens, hidden states and attention weights.

    Layer outputs are those of `BaseModelOutputWithPooling`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: LayerOutputs = None
    attentions: LayerOutputs = None


@dataclass
class SemanticSegmenterOutput(ModelOutput):
    """Model output: loss (if labels were given), logits of pixels, hidden states and attention weights.

    The logits have the shape (b, classes, rows, columns); resize them to the size of the image. Layer outputs are those
    of `BaseModelOutputWithPooling`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: LayerOutputs = None
    attentions: LayerOutputs = None


@dataclass
class MaskedImageModelingOutput(ModelOutput):
    """Model output: loss (if a mask was given), reconstructed images, hidden states and attention weights.

    Layer outputs are those of `BaseModelOutputWithPooling`.
    """

    loss: Tensor | None = None
    reconstruction: Tensor | None = None
    hidden_states: LayerOutputs = None
    attentions: LayerOutputs = None

    @property
    def logits(self) -> Tensor | None:
        """Former name of the attribute `reconstruction`."""
        return self.reconstruction


__all__ = [
    "BackboneOutput",
    "BaseModelOutput",
    "BaseModelOutputWithPooling",
    "BaseModelOutputWithPoolingAndNoAttention",
    "ImageClassifierOutput",
    "ImageClassifierOutputWithNoAttention",
    "MaskedImageModelingOutput",
    "MaskedLMOutput",
    "ModelOutput",
    "SemanticSegmenterOutput",
]
