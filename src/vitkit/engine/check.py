"""How far a fast path is from the exact one: measured before it is used, and said."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitkit.models import Backbone


def probe(model: Backbone, count: int = 1) -> Float[Tensor, "b c rows columns"]:
    """Pictures that no photo is needed for: large soft shapes and some noise, the same ones every time."""
    config = model.config
    generator = torch.Generator().manual_seed(20)
    shapes = torch.randn(count, config.channels, 8, 8, generator=generator)
    shapes = F.interpolate(shapes, size=config.image_size, mode="bicubic", align_corners=False)
    noise = torch.randn(count, config.channels, *config.image_size, generator=generator)
    return (shapes + 0.2 * noise).to(next(model.parameters()).device)


def answers(model: Backbone, images: Tensor) -> list[Float[Tensor, "b n"]]:
    """What a model says of pictures and what its head read, float32."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            features = model.features(images)
            said = model.logits(features), model.represent(features)
            return [answer.float().flatten(1) for answer in said]
    finally:
        model.train(training)


def difference(exact: list[Tensor], fast: list[Tensor]) -> float:
    """The larger of the two root mean square differences, of logits and of representations, each as a share of the
    exact ones' own spread; infinite where the fast one is no number or of another shape.

    Logits without any spread (a new head is zero) are compared as they are.
    """
    found = 0.0
    for true, other in zip(exact, fast, strict=True):
        if true.shape != other.shape or not bool(other.isfinite().all()):
            return float("inf")
        spread = float((true - true.mean()).square().mean().sqrt())
        off = float((true - other).square().mean().sqrt())
        found = max(found, off / spread if spread > 1e-6 else off)
    return found
