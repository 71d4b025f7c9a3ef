"""Mean attention distance of every head in every layer (ViT paper, Figures 7 right and 11)."""

import torch
from jaxtyping import Float
from torch import Tensor

from vitkit.explanation import Dots, ExplainInputs, Explanation
from vitkit.explanation._hooks import BATCH, capture_attention, token_backbone
from vitkit.explanation._inputs import require_images
from vitkit.layers import Features
from vitkit.models import Backbone


def patch_distances(grid: tuple[int, int], patch_size: tuple[int, int]) -> Float[Tensor, "p p"]:
    """Returns the Euclidean distances in pixels between the centers of all patches, in row-major order."""
    rows, columns = (
        torch.arange(size, dtype=torch.float32) * step for size, step in zip(grid, patch_size, strict=True)
    )
    centers = torch.cartesian_prod(rows, columns)
    return torch.linalg.vector_norm(centers[:, None] - centers[None], dim=-1)


def attention_distance(
    weights: Float[Tensor, "b h n n"], grid: tuple[int, int], patch_size: tuple[int, int]
) -> Float[Tensor, "b h"]:
    """Returns the mean distance in pixels between query and key patches, weighted by the attention.

    As a loop: `sum(weight[i, j] * distance(i, j) for j in patches)`, averaged over i in patches. Special tokens are
    removed without renormalizing, so attention to the class token counts as distance zero.
    """
    distances = patch_distances(grid, patch_size).to(weights.device)
    num_special = weights.shape[-1] - distances.shape[0]
    between_patches = weights[..., num_special:, num_special:]
    return torch.einsum("bhij,ij->bh", between_patches, distances) / distances.shape[0]


def distances_by_layer(model: Backbone, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b layers h"]:
    """Returns the mean attention distance in pixels for every image, layer and head."""
    patch_size = token_backbone(model).config.patch_size
    per_image: list[Tensor] = []

    def measure(_: int, weights: Tensor, embedded: Features) -> None:
        layers.append(attention_distance(weights, embedded.grid, patch_size).cpu())

    for batch in images.split(BATCH):
        layers: list[Tensor] = []
        capture_attention(model, batch, measure)
        per_image.append(torch.stack(layers, dim=1))
    return torch.cat(per_image)


def explain(subject: ExplainInputs) -> Explanation:
    """Plots the attention distance of each head, averaged over all images (128 in the paper), against the layer index.

    Arrays: `distance` (layers, heads) in pixels; `per_image` (b, layers, heads); `uniform`, the distance of uniform
    attention.
    """
    require_images(subject)
    per_image = distances_by_layer(subject.model, subject.pixels)
    mean = per_image.mean(dim=0).numpy()
    with torch.no_grad():
        grid = token_backbone(subject.model).embed(subject.pixels[:1]).grid
    uniform = patch_distances(grid, subject.model.config.patch_size).mean().numpy()
    images = per_image.shape[0]
    title = f"Attention distance, mean of {images} image{'s' if images > 1 else ''}"
    return Explanation(
        arrays={"distance": mean, "per_image": per_image.numpy(), "uniform": uniform},
        drawing=Dots(title, mean, "mean attention distance (pixels)", float(uniform)),
    )
