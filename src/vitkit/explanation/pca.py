"""Principal components of patch features, shown as colors (DINOv2, Oquab et al. 2023, Figure 1).

The first component over the patches of all images separates the foreground from the background. The first three
components over the foreground patches are the red, green and blue of each patch, so that parts of objects with similar
features get the same color in all images.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitkit.explanation import ExplainInputs, Explanation, Map, Overlay
from vitkit.explanation._hooks import BATCH, check_not_exported
from vitkit.explanation._inputs import require_images, top_classes
from vitkit.layers import eval_mode
from vitkit.models import Backbone

#: Minimum number of foreground patches. If there are fewer, all patches are colored.
MIN_PATCHES = 8


def patch_features(
    model: Backbone, images: Float[Tensor, "b c height width"], layer: int = -1
) -> Float[Tensor, "b rows columns d"]:
    """Returns the features of all patches after a block and the final norm.

    For a convolutional network, `layer` is the index of a stage instead of a block.
    """
    check_not_exported(model)
    maps = []
    with eval_mode(model), torch.no_grad():
        for batch in images.split(BATCH):
            features = model.features(batch, (layer,), as_maps=True, norm=True, intermediates_only=True)
            maps.append(features.taps[0].movedim(1, -1).float().cpu())
    return torch.cat(maps)


def principal_components(
    vectors: Float[Tensor, "n d"], number: int = 3
) -> tuple[Float[Tensor, "d number"], Float[Tensor, " number"]]:
    """Returns the principal axes of vectors as columns, and the explained variance ratio of each axis.

    The largest absolute entry of every axis is positive, which makes the signs unique. Missing axes of vectors with
    fewer than `number` entries are zero.
    """
    centered = vectors.double() - vectors.double().mean(dim=0)
    values, axes = torch.linalg.eigh(centered.T @ centered)
    values, axes = values.flip(0).clamp_min(0)[:number], axes.flip(1)[:, :number]
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    axes = axes * torch.where(largest < 0, -1.0, 1.0)
    total = centered.square().sum().clamp_min(torch.finfo(torch.float64).tiny)
    missing = number - axes.shape[1]
    return torch.nn.functional.pad(axes, (0, missing)), torch.nn.functional.pad(values / total, (0, missing))


def foreground_patches(features: Float[Tensor, "b rows columns d"]) -> Bool[Tensor, "b rows columns"]:
    """Returns the foreground patches, whose first principal component is above the mean.

    The sign of the component is such that the border of the images has a lower mean than the inside, because objects
    rarely fill the border of a photo.
    """
    vectors = features.flatten(0, 2).double()
    axes, _ = principal_components(vectors, 1)
    scores = ((vectors - vectors.mean(dim=0)) @ axes[:, 0]).view(features.shape[:3])
    border = torch.ones(features.shape[1:3], dtype=torch.bool)
    border[1:-1, 1:-1] = False
    if not border.all() and scores[:, border].mean() > scores[:, ~border].mean():
        scores = -scores
    return scores > 0


def component_colors(
    features: Float[Tensor, "b rows columns d"], foreground: Bool[Tensor, "b rows columns"]
) -> tuple[Float[Tensor, "b rows columns 3"], Float[Tensor, " 3"]]:
    """Returns the first three components of foreground patches as RGB, and their explained variance ratios.

    Other patches are zero (black). Each component is scaled to its range over the foreground patches of all images.
    """
    vectors = features[foreground].double()
    axes, fractions = principal_components(vectors)
    scores = (vectors - vectors.mean(dim=0)) @ axes
    low, high = scores.amin(dim=0), scores.amax(dim=0)
    colors = torch.zeros(*features.shape[:3], 3, dtype=torch.float64)
    colors[foreground] = (scores - low) / (high - low).clamp_min(torch.finfo(torch.float64).tiny)
    return colors.float(), fractions.float()


def explain(subject: ExplainInputs, *, layer: int = -1, all_patches: bool = False) -> Explanation:
    """Shows the patches of all images in colors: the first three principal components of their features.

    `all_patches` colors the background, too. Arrays: `colors` (b, rows, columns, 3) from 0 to 1; `foreground` (b, rows,
    columns); `variance`, the fractions of the variance of the three components.
    """
    require_images(subject)
    features = patch_features(subject.model, subject.pixels, layer)
    foreground = torch.ones(features.shape[:3], dtype=torch.bool) if all_patches else foreground_patches(features)
    if foreground.sum() < MIN_PATCHES:
        foreground = torch.ones_like(foreground)
    colors, variance = component_colors(features, foreground)
    shown = "all patches" if bool(foreground.all()) else "the foreground"
    title = f"Principal components of patch features, {shown}: {float(variance.sum()):.0%} of the variance"
    return Explanation(
        arrays={"colors": colors.numpy(), "foreground": foreground.numpy(), "variance": variance.numpy()},
        drawing=Overlay(
            title, subject.images, top_classes(subject), (Map("components as RGB", colors.numpy(), "rgb"),)
        ),
    )
