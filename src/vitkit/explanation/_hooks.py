"""Captures attention weights during a forward pass, and converts them to maps with one value per patch."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vitkit.layers import Features, eval_mode
from vitkit.models import Backbone, TokenBackbone

Query = Literal["class", "patches"]

#: Batch size of forward passes over many images.
BATCH = 8


def check_not_exported(model: Backbone) -> None:
    """Raises ValueError for an exported model, which returns neither attention weights nor gradients."""
    if model.is_exported:
        raise ValueError(
            "an exported model returns no attention weights, block outputs or gradients, so it cannot be explained; "
            "load the original checkpoint instead"
        )


def token_backbone(model: Backbone) -> TokenBackbone:
    """Returns the model as a `TokenBackbone`. Raises ValueError if its blocks do not compute attention weights."""
    check_not_exported(model)
    if not isinstance(model, TokenBackbone):
        raise ValueError(
            f"{type(model).__name__} has convolutional stages instead of encoder blocks over tokens, so there is no "
            "attention between patches to explain; use the method gradient (Grad-CAM) or pca, or a Vision Transformer"
        )
    for block in model.blocks:
        if not hasattr(block, "attention_weights"):
            raise ValueError(
                f"the blocks of {type(model).__name__} ({type(block).__name__}) do not provide attention weights; use "
                "a Vision Transformer"
            )
    return model


def find_layers(model: TokenBackbone, layers: Sequence[int] | None) -> list[int]:
    """Returns sorted, non-negative block indices. Negative `layers` count from the end, and None selects all blocks."""
    depth = len(model.blocks)
    if layers is None:
        return list(range(depth))
    for layer in layers:
        if not -depth <= layer < depth:
            raise ValueError(f"layer {layer} is out of range: the model has layers 0 to {depth - 1}")
    return sorted({layer % depth for layer in layers})


def capture_attention(
    model: Backbone,
    images: Float[Tensor, "b c height width"],
    callback: Callable[[int, Float[Tensor, "b h n n"], Features], None],
    layers: Sequence[int] | None = None,
) -> Features:
    """Runs the model, calls `callback` with the attention weights of the given layers, and returns the features.

    The arguments of `callback` are the layer, its attention weights and the embedded images. Weights are float32, and
    `embedded` is the input of the first block. The weights are computed from the input of a block in addition to its
    fused attention. Only one layer's weights are in memory at a time, unless `callback` stores them.
    """
    model = token_backbone(model)
    embedded: list[Features] = []

    def hook(layer: int) -> Callable[..., None]:
        def before(block: Any, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            callback(layer, block.attention_weights(*args, **kwargs), embedded[0])

        return before

    handles = [
        model.blocks[layer].register_forward_pre_hook(hook(layer), with_kwargs=True)
        for layer in find_layers(model, layers)
    ]
    try:
        with eval_mode(model), torch.no_grad():
            embedded.append(model.embed(images))
            return model.encode(embedded[0])
    finally:
        for handle in handles:
            handle.remove()


def find_query(model: TokenBackbone, features: Features) -> Query:
    """Returns the query tokens to show: `class` if the head reads the class token, otherwise `patches`."""
    pooled = getattr(model.config, "pool", "token") in ("gap", "map")
    has_class = features.num_special > 0 and getattr(model.config, "class_token", True)
    return "class" if has_class and not pooled else "patches"


def patch_map(weights: Float[Tensor, "*b n n"], features: Features, query: Query) -> Float[Tensor, "*b rows columns"]:
    """Returns the attention to each patch, from the class token or averaged over all patches, as a map.

    Rows of `weights` are queries, columns are keys.
    """
    to_patches = weights[..., features.num_special :]
    row = to_patches[..., 0, :] if query == "class" else to_patches[..., features.num_special :, :].mean(dim=-2)
    return row.unflatten(-1, features.grid)


def query_name(query: Query) -> str:
    """Returns a description of the query tokens of an attention map, for plot titles."""
    return "the class token" if query == "class" else "all patches (mean: the head reads no class token)"
