"""Looking at the attention of chosen blocks while a model runs, and reading a map of the picture from it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers import Features
from vitkit.models import Backbone, TokenBackbone

Query = Literal["class", "patches"]

#: Images in one pass where there may be many.
BATCH = 8


def token_backbone(model: Backbone) -> TokenBackbone:
    """The model itself; ValueError where it has no blocks over tokens or these do not tell their attention weights."""
    if not isinstance(model, TokenBackbone):
        raise ValueError(
            f"{type(model).__name__} is built of stages over maps, like a convolutional network: it has no sequence of "
            "blocks over tokens, so there is no attention between patches to explain; use a Vision Transformer"
        )
    for block in model.blocks:
        if not hasattr(block, "attention_weights"):
            raise ValueError(f"the blocks of {type(model).__name__} ({type(block).__name__}) have no attention_weights")
    return model


def find_layers(model: TokenBackbone, layers: Sequence[int] | None) -> list[int]:
    """Indices of blocks, first to last; negative ones count from the end, None is all of them."""
    depth = len(model.blocks)
    if layers is None:
        return list(range(depth))
    for layer in layers:
        if not -depth <= layer < depth:
            raise ValueError(f"there is no layer {layer}: the model has layers 0 to {depth - 1}")
    return sorted({layer % depth for layer in layers})


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model without dropout and stochastic depth, and as it was afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def look(
    model: Backbone,
    images: Float[Tensor, "b c height width"],
    see: Callable[[int, Float[Tensor, "b h n n"], Features], None],
    layers: Sequence[int] | None = None,
) -> Features:
    """Runs the model, calls `see(layer, weights, embedded)` for the chosen layers in order, returns the final features.

    Weights are float32; `embedded` is what went into the first block. Weights are worked out from the input of a block,
    beside its own fused attention; the other blocks only run, and no two layers' weights are in memory at once unless
    `see` keeps them.
    """
    model = token_backbone(model)
    embedded: list[Features] = []

    def hook(layer: int) -> Callable[..., None]:
        def before(block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            see(layer, block.attention_weights(*args, **kwargs), embedded[0])

        return before

    handles = [
        model.blocks[layer].register_forward_pre_hook(hook(layer), with_kwargs=True)
        for layer in find_layers(model, layers)
    ]
    try:
        with evaluating(model), torch.no_grad():
            embedded.append(model.embed(images))
            return model.encode(embedded[0])
    finally:
        for handle in handles:
            handle.remove()


def query_of(model: TokenBackbone, features: Features) -> Query:
    """Whose attention speaks for the model: the class token's where the head reads it, else that of all patches."""
    pooled = getattr(model.config, "pool", "token") in ("gap", "map")
    has_class = features.num_special > 0 and getattr(model.config, "class_token", True)
    return "class" if has_class and not pooled else "patches"


def patch_map(weights: Float[Tensor, "*b n n"], features: Features, query: Query) -> Float[Tensor, "*b rows columns"]:
    """What the query gives to each patch, from a matrix of queries (rows) and keys; or all patches, as a mean."""
    to_patches = weights[..., features.num_special :]
    row = to_patches[..., 0, :] if query == "class" else to_patches[..., features.num_special :, :].mean(dim=-2)
    return row.unflatten(-1, features.grid)


def query_name(query: Query) -> str:
    """The query in words, for titles."""
    return "the class token" if query == "class" else "all patches (mean: the head reads no class token)"
