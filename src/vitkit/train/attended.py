"""Where a model looked in a picture, for people: the picture lit by what reached the answer.

Only the few pictures shown are looked at again; the pass that judged all of them kept its fused attention.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vitkit.data import Source
from vitkit.data.processor import Processor
from vitkit.explain.look import evaluating, patch_map, query_of, token_backbone
from vitkit.explain.rollout import rollout
from vitkit.explain.subject import read
from vitkit.models import Backbone

Attended = Callable[[Sequence[int]], list[Image.Image]]
DARKEST = 0.12  # what is left of the light where the model did not look at all
AT_ONCE = 4  # pictures: one layer's attention weights of each are in memory together
CELL = 16  # pixels a side over which a gradient is averaged, as a patch would be

ROLLOUT = "attention rolled out through all layers (ViT paper, Figure 6)"
GRADIENT = "how much each part moves the answer (input gradient)"


def looks(model: Backbone) -> bool:
    """Whether the model has attention between patches to roll out."""
    try:
        token_backbone(model)
    except ValueError:
        return False
    return True


def attended(model: Backbone, processor: Processor, source: Source) -> Attended:
    """A function from numbers of pictures to what the model sees of them, bright where it looked."""

    def look(indices: Sequence[int]) -> list[Image.Image]:
        found: list[Image.Image] = []
        opening = {"profile": processor.profile, "background": processor.background}
        for start in range(0, len(indices), AT_ONCE):
            images = [source.read(index, **opening).image for index in indices[start : start + AT_ONCE]]
            subject = read(model, processor, images)
            pixels = subject.pixels.to(next(model.parameters()).dtype)
            maps = attention(model, pixels) if looks(model) else gradient(model, pixels)
            found += [lit(picture, each) for picture, each in zip(subject.pictures, maps.cpu().numpy(), strict=True)]
        return found

    return look


def attention(model: Backbone, pixels: Float[Tensor, "b c height width"]) -> Float[Tensor, "b rows columns"]:
    """Attention rollout to the class token, or to the mean of all patches where the head reads that."""
    product, features = rollout(model, pixels)
    return patch_map(product, features, query_of(token_backbone(model), features)).float()


def gradient(model: Backbone, pixels: Float[Tensor, "b c height width"]) -> Float[Tensor, "b rows columns"]:
    """The size of the gradient of the likeliest class's logit, its mean over small squares (Simonyan et al. 2014)."""
    with evaluating(model), torch.enable_grad():
        given = pixels.detach().requires_grad_()
        (slope,) = torch.autograd.grad(model(given).amax(dim=1).sum(), given)
    size = max(1, pixels.shape[2] // CELL), max(1, pixels.shape[3] // CELL)
    return F.adaptive_avg_pool2d(slope.float().abs().amax(dim=1, keepdim=True), size)[:, 0]


def lit(picture: Image.Image, values: Float[np.ndarray, "rows columns"]) -> Image.Image:
    """The picture with its light in proportion to a map over it, from `DARKEST` at its lowest to all at its highest."""
    low, high = float(values.min()), float(values.max())
    share = (values - low) / (high - low) if high > low else np.ones_like(values)
    light = Image.fromarray((share * 255).astype(np.uint8)).resize(picture.size, Image.Resampling.BICUBIC)
    factor = DARKEST + (1 - DARKEST) * np.asarray(light, dtype=np.float32)[..., None] / 255
    return Image.fromarray((np.asarray(picture.convert("RGB")) * factor).astype(np.uint8))
