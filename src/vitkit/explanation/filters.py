"""Principal components of the patch embedding filters (ViT paper, Figure 7 left)."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitkit.explanation import ExplainInputs, Explanation, Tiles
from vitkit.explanation._hooks import token_backbone
from vitkit.layers import PatchEmbed
from vitkit.models import Backbone


def principal_filters(
    weight: Float[Tensor, "d c rows columns"], number: int
) -> tuple[Float[Tensor, "number c rows columns"], Float[Tensor, " number"]]:
    """Returns the first principal components of convolution filters, and their explained variance ratios.

    Components are unit vectors, sorted by variance; the entry with the largest magnitude is positive. The mean filter
    is subtracted first. Raises ValueError if `number` exceeds the number of components.
    """
    flat = weight.detach().double().flatten(1)
    most = min(flat.shape)
    if not 1 <= number <= most:
        raise ValueError(f"number is {number}; expected 1 to {most}, the number of principal components")
    _, deviations, components = torch.linalg.svd(flat - flat.mean(dim=0), full_matrices=False)
    components = components[:number]
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    ratios = deviations.square() / deviations.square().sum()
    return (components * largest.sign()).float().view(number, *weight.shape[1:]), ratios[:number].float()


def rgb_filters(model: Backbone, number: int = 28) -> tuple[Float[Tensor, "number c rows columns"], Tensor]:
    """Returns the first principal components of the patch embedding filters of a model, and their variance ratios.

    Raises ValueError for a model whose patch projection does not read the image, such as a hybrid.
    """
    embed = getattr(token_backbone(model), "patch_embed", None)
    if not isinstance(embed, PatchEmbed) or embed.channels != model.config.channels or embed.channels not in (1, 3):
        raise ValueError(
            f"the patch projection of this {type(model).__name__} is not applied to a grayscale or RGB image, so "
            "its filters cannot be shown as images; use a model with 1 or 3 channels and no convolutional stem"
        )
    return principal_filters(embed.proj.weight, number)


def explain(subject: ExplainInputs, *, number: int = 28) -> Explanation:
    """Shows the first `number` principal components (28 in the paper) as small images, in which gray is zero.

    Arrays: `filters` (number, channels, rows, columns), unit vectors; `variance`, the explained variance ratio of each.
    """
    filters, variance = rgb_filters(subject.model, number)
    components = filters.cpu().numpy()
    scaled = 0.5 + 0.5 * components / np.abs(components).max(axis=(1, 2, 3), keepdims=True)
    colors = np.repeat(scaled, 3 // scaled.shape[1], axis=1).transpose(0, 2, 3, 1)
    across = min(7, number)
    down = math.ceil(number / across)
    tiles = np.ones((down * across, *colors.shape[1:]), dtype=np.float32)
    tiles[:number] = colors
    return Explanation(
        arrays={"filters": components, "variance": variance.cpu().numpy()},
        drawing=Tiles(
            f"Embedding filters: first {number} components, {float(variance.sum()):.0%} of variance",
            tiles.reshape(down, across, *colors.shape[1:]),
        ),
    )
