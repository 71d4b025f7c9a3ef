"""Attention maps of every head and layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitkit.explanation import ExplainInputs, Explanation, Map, Overlay
from vitkit.explanation._hooks import (
    Query,
    capture_attention,
    find_layers,
    find_query,
    patch_map,
    query_name,
    token_backbone,
)
from vitkit.explanation._inputs import require_images, top_classes
from vitkit.layers import Features
from vitkit.models import Backbone


@dataclass(frozen=True)
class AttentionMaps:
    """Attention weights of some layers. `weights[i]`, of shape (b, h, n, n), is from block `layers[i]`.

    Rows are queries and sum to one; tokens are in the order of `Features`. `query` is the token or the tokens that the
    head reads.
    """

    layers: list[int]
    weights: list[Float[Tensor, "b h n n"]]
    features: Features
    query: Query

    @property
    def maps(self) -> Float[Tensor, "b layers h rows columns"]:
        """Attention to each patch, from the class token or averaged over all patches."""
        return torch.stack([patch_map(weights, self.features, self.query) for weights in self.weights], dim=1)


def attention_maps(
    model: Backbone, images: Float[Tensor, "b c height width"], layers: Sequence[int] | None = None
) -> AttentionMaps:
    """Returns the float32 attention weights of the given layers, or of all layers if `layers` is None.

    Other layers use the fused kernel. Raises ValueError for a layer index out of range and for a model without
    attention between patches.
    """
    backbone = token_backbone(model)
    captured: list[Tensor] = []
    features = capture_attention(backbone, images, lambda _, weights, __: captured.append(weights), layers)
    return AttentionMaps(find_layers(backbone, layers), captured, features, find_query(backbone, features))


def explain(subject: ExplainInputs, *, layer: int | None = None, head: int | None = None) -> Explanation:
    """Shows attention maps: of all heads in a layer, of one head in all layers, or of one head in one layer.

    Without `layer` and `head`, shows all heads of the last layer.

    Arrays: `layers`; `weights` (b, layers, heads, n, n) with queries in rows; `maps` (b, layers, heads, rows, columns).
    """
    require_images(subject)
    layers = [layer] if layer is not None else None if head is not None else [-1]
    attention = attention_maps(subject.model, subject.pixels, layers)
    maps = attention.maps.cpu().numpy()
    num_heads = maps.shape[2]
    if head is not None and not -num_heads <= head < num_heads:
        raise ValueError(f"head {head} is out of range: each layer has heads 0 to {num_heads - 1}")
    heads = range(num_heads) if head is None else [head % num_heads]
    shown = [
        Map(f"layer {number}, head {index}", maps[:, position, index])
        for position, number in enumerate(attention.layers)
        for index in heads
    ]
    if len(shown) > 1:
        shown.insert(0, Map("mean", maps[:, :, list(heads)].mean(axis=(1, 2))))
    title = f"Attention of {query_name(attention.query)}"
    captions = top_classes(subject)
    return Explanation(
        arrays={
            "layers": np.array(attention.layers),
            "weights": torch.stack(attention.weights, dim=1).cpu().numpy(),
            "maps": maps,
        },
        drawing=Overlay(title, subject.images, captions, tuple(shown)),
    )
