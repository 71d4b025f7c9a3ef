"""Attention rollout (Abnar and Zuidema 2020; ViT paper, Figures 6 and 14)."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from vitkit.explanation import ExplainInputs, Explanation, Map, Overlay
from vitkit.explanation._hooks import capture_attention, find_layers, find_query, patch_map, query_name, token_backbone
from vitkit.explanation._inputs import require_images, top_classes
from vitkit.layers import Features
from vitkit.models import Backbone

Fusion = Literal["mean", "max", "min"]


def step(
    weights: Float[Tensor, "b h n n"], *, fusion: Fusion = "mean", discard: float = 0.0, num_special: int = 0
) -> Float[Tensor, "b n n"]:
    """Returns the attention of a layer, fused over heads, plus the identity. Rows are normalized to a sum of one.

    Before the identity is added, the fraction `discard` of the fused weights, the smallest ones of each image, is set
    to zero. Weights of special tokens as keys are not changed. Abnar and Zuidema 2020, "Quantifying Attention Flow in
    Transformers", fuse by the mean and discard nothing. Raises ValueError for an unknown fusion and a fraction outside
    [0, 1).
    """
    if fusion not in get_args(Fusion):
        raise ValueError(f"unknown fusion '{fusion}'; choose from {', '.join(get_args(Fusion))}")
    if not 0 <= discard < 1:
        raise ValueError(f"discard is {discard}; expected a fraction of at least 0 and below 1")
    fused = weights.mean(dim=1) if fusion == "mean" else weights.amax(dim=1) if fusion == "max" else weights.amin(dim=1)
    if discard:
        fused = fused.clone()
        to_patches = fused[:, :, num_special:]
        flat = to_patches.flatten(1)
        order = flat.argsort(dim=1)[:, : int(discard * flat.shape[1])]
        to_patches.copy_(flat.scatter(1, order, 0.0).view_as(to_patches))
    mixed = fused + torch.eye(fused.shape[-1], device=fused.device)
    return mixed / mixed.sum(dim=-1, keepdim=True)


def rollout(
    model: Backbone,
    images: Float[Tensor, "b c height width"],
    *,
    layer: int = -1,
    fusion: Fusion = "mean",
    discard: float = 0.0,
) -> tuple[Float[Tensor, "b n n"], Features]:
    """Returns the attention rollout of the layers up to `layer`, and the final features of the images.

    The rollout is the product of the attention matrices of the layers, each with its residual connection.

    The last layer is the leftmost factor. Row i gives the contribution of every input token to output token i. Only one
    layer's weights are in memory at a time.
    """
    backbone = token_backbone(model)
    (last,) = find_layers(backbone, [layer])
    product: list[Tensor] = []

    def multiply(_: int, weights: Tensor, embedded: Features) -> None:
        mixed = step(weights, fusion=fusion, discard=discard, num_special=embedded.num_special)
        product[:] = [mixed @ product[0] if product else mixed]

    features = capture_attention(backbone, images, multiply, range(last + 1))
    return product[0], features


def explain(subject: ExplainInputs, *, layer: int = -1, fusion: Fusion = "mean", discard: float = 0.0) -> Explanation:
    """Shows the attention rollout up to `layer`, as a heat map and as in Figure 6 of the ViT paper.

    Arrays: `rollout` (b, n, n) with output tokens in rows; `maps` (b, rows, columns).
    """
    require_images(subject)
    product, features = rollout(subject.model, subject.pixels, layer=layer, fusion=fusion, discard=discard)
    query = find_query(token_backbone(subject.model), features)
    maps = patch_map(product, features, query).cpu().numpy()
    shown = (Map("rollout", maps), Map("image x rollout", maps, "light"))
    title = f"Attention rollout to {query_name(query)}"
    return Explanation(
        arrays={"rollout": product.cpu().numpy(), "maps": maps},
        drawing=Overlay(title, subject.images, top_classes(subject), shown),
    )
