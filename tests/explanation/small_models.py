"""Small models of every family with non-degenerate weights, and noise images for them."""

import torch

from vitkit import models
from vitkit.models import Backbone, TokenBackbone

FAMILIES = {name: models.build(models.family(name).TINY, device="meta") for name in models.families()}
TOKEN_FAMILIES = [name for name, model in FAMILIES.items() if isinstance(model, TokenBackbone)]
STAGE_FAMILIES = [name for name, model in FAMILIES.items() if not isinstance(model, TokenBackbone)]


def small(name: str) -> Backbone:
    """Returns a small model whose parameters are large enough that attention is far from uniform."""
    torch.manual_seed(0)
    model = models.build(models.family(name).TINY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def noise_images(model: Backbone, batch: int = 2, factor: tuple[float, float] = (1, 1)) -> torch.Tensor:
    """Returns noise images of a model's native size times `factor`."""
    rows, columns = model.config.image_size
    generator = torch.Generator().manual_seed(1)
    return torch.randn(
        batch, model.config.channels, int(rows * factor[0]), int(columns * factor[1]), generator=generator
    )
