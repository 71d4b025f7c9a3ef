"""Attention maps: what each head of each layer looks at."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitkit.explain import Explanation, Map, Overlay, Subject
from vitkit.explain.look import Query, find_layers, look, patch_map, query_name, query_of, token_backbone
from vitkit.explain.subject import need_images, top_classes
from vitkit.layers import Features
from vitkit.models import Backbone


@dataclass(frozen=True)
class AttentionMaps:
    """The attention weights of some layers: `weights[i]` (b, h, n, n) is that of the block `layers[i]`.

    Rows are queries and sum to one; tokens are in the order of `Features`. `query` is whose row speaks for the model.
    """

    layers: list[int]
    weights: list[Float[Tensor, "b h n n"]]
    features: Features
    query: Query

    @property
    def maps(self) -> Float[Tensor, "b layers h rows columns"]:
        """What the class token, or the mean patch where the head reads none, gives to each patch."""
        return torch.stack([patch_map(weights, self.features, self.query) for weights in self.weights], dim=1)


def attention_maps(
    model: Backbone, images: Float[Tensor, "b c height width"], layers: Sequence[int] | None = None
) -> AttentionMaps:
    """The attention weights of the chosen layers (None: all), float32; the other layers run in the fused kernel.

    Raises ValueError for a layer that there is not, and for a convolutional model.
    """
    backbone = token_backbone(model)
    kept: list[Tensor] = []
    features = look(backbone, images, lambda _, weights, __: kept.append(weights), layers)
    return AttentionMaps(find_layers(backbone, layers), kept, features, query_of(backbone, features))


def explain(subject: Subject, *, layer: int | None = None, head: int | None = None) -> Explanation:
    """Maps over each picture: all heads of a layer, one head in all layers, one of one; all heads of the last.

    Arrays: `layers`; `weights` (b, layers, heads, n, n) with queries in rows; `maps` (b, layers, heads, rows, columns).
    """
    need_images(subject)
    layers = [layer] if layer is not None else None if head is not None else [-1]
    found = attention_maps(subject.model, subject.pixels, layers)
    maps = found.maps.cpu().numpy()
    num_heads = maps.shape[2]
    if head is not None and not -num_heads <= head < num_heads:
        raise ValueError(f"there is no head {head}: each layer has heads 0 to {num_heads - 1}")
    heads = range(num_heads) if head is None else [head % num_heads]
    drawn = [
        Map(f"layer {number}, head {index}", maps[:, place, index])
        for place, number in enumerate(found.layers)
        for index in heads
    ]
    if len(drawn) > 1:
        drawn.insert(0, Map("mean", maps[:, :, list(heads)].mean(axis=(1, 2))))
    title = f"Attention of {query_name(found.query)}"
    captions = top_classes(subject)
    return Explanation(
        arrays={
            "layers": np.array(found.layers),
            "weights": torch.stack(found.weights, dim=1).cpu().numpy(),
            "maps": maps,
        },
        drawing=Overlay(title, subject.pictures, captions, tuple(drawn)),
    )
