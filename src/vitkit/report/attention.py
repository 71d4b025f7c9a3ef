"""Attention maps or gradient maps of the image crops that a model sees, for the mistakes in a report.

Maps are computed for the displayed images only, so the evaluation itself uses fused attention.
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vitkit.checkpoints import Checkpoint
from vitkit.data import ReadOptions, Source
from vitkit.data.augment import read_options
from vitkit.explanation._hooks import find_query, patch_map, token_backbone
from vitkit.explanation._inputs import crop_to_patches
from vitkit.explanation.rollout import rollout
from vitkit.images import AnyImage, ImageError, Limits
from vitkit.inference.runtimes import ExportedModel
from vitkit.layers import eval_mode
from vitkit.models import Backbone

BATCH_SIZE = 4  # images whose attention weights of one layer are in memory at a time
# The evaluation has already read these images, under the limits of the run.
ALREADY_READ = Limits(max_bytes=1 << 40, max_pixels=1 << 40)
CELL = 16  # side in pixels of the squares over which a gradient is averaged, like a patch
MAX_GRID = 16  # maximum number of rows, and of columns, of a map in the report

ROLLOUT = "attention rollout through all layers (ViT paper, Figure 6)"
GRADIENT = "input gradient of the largest output"


@dataclass(frozen=True)
class View:
    """The image crop that the model sees, and its map. Both are None if the image can no longer be read."""

    image: Image.Image | None
    map: Float[np.ndarray, "rows columns"] | None = None


def views(source: Source, indices: Sequence[int], model: Checkpoint | None) -> Iterator[View]:
    """Yields a view of each image.

    Without a model, the view is the full image. Views of exported models have no map.
    """
    options = ReadOptions(limits=ALREADY_READ) if model is None else read_options(model.processor, ALREADY_READ)
    for start in range(0, len(indices), BATCH_SIZE):
        images: list[AnyImage | None] = []
        for index in indices[start : start + BATCH_SIZE]:
            try:
                images.append(source.read(index, **options).image)
            except ImageError:
                images.append(None)
        if model is None:
            yield from (View(None if image is None else image.convert("RGB")) for image in images)
        else:
            yield from _seen(images, model)


def _seen(images: Sequence[AnyImage | None], model: Checkpoint) -> Iterator[View]:
    """Yields the crops of a batch of images, each with a map of the same pixels."""
    readable = [image for image in images if image is not None]
    if not readable:
        yield from (View(None) for _ in images)
        return
    crops = iter([model.processor.image(image).convert("RGB") for image in readable])
    if isinstance(model.model, ExportedModel):
        yield from (View(None if image is None else next(crops)) for image in images)
        return
    backbone, parameter = model.model, next(model.model.parameters())
    pixels = model.processor(readable).to(parameter.device, parameter.dtype)
    maps = attention_map(backbone, pixels) if has_attention(backbone) else gradient_map(backbone, pixels)
    found = iter(maps.float().cpu().numpy())
    for image in images:
        yield View(None) if image is None else View(crop_to_patches(backbone, pixels, next(crops)), next(found))


def has_attention(model: Backbone) -> bool:
    """Returns whether the model has attention between patches, which attention rollout requires."""
    try:
        token_backbone(model)
    except ValueError:
        return False
    return True


def attention_map(model: Backbone, pixels: Float[Tensor, "b c height width"]) -> Float[Tensor, "b rows columns"]:
    """Returns the attention rollout from the class token, or from the mean of the patches, to each patch."""
    product, features = rollout(model, pixels)
    return patch_map(product, features, find_query(token_backbone(model), features)).float()


def gradient_map(model: Backbone, pixels: Float[Tensor, "b c height width"]) -> Float[Tensor, "b rows columns"]:
    """Returns a saliency map: the absolute input gradient of the highest logit, averaged over squares."""
    with eval_mode(model), torch.enable_grad():
        inputs = pixels.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(model(inputs).amax(dim=1).sum(), inputs)
    size = max(1, pixels.shape[2] // CELL), max(1, pixels.shape[3] // CELL)
    return F.adaptive_avg_pool2d(gradient.float().abs().amax(dim=1, keepdim=True), size)[:, 0]


def encoded_map(values: Float[np.ndarray, "rows columns"]) -> tuple[int, int, str]:
    """Returns the number of rows and columns of a map for the report, and its values as base64.

    Values are bytes from 0 (the lowest value) to 255 (the highest). The report multiplies the pixels of the crop by the
    map. If all values are equal, they are 255.
    """
    size = min(MAX_GRID, values.shape[0]), min(MAX_GRID, values.shape[1])
    small = F.adaptive_avg_pool2d(torch.from_numpy(np.ascontiguousarray(values, np.float32))[None], size)[0]
    low, high = float(small.min()), float(small.max())
    scaled = (small - low) / (high - low) if high > low else torch.ones_like(small)
    data = (scaled * 255).round().to(torch.uint8).numpy().tobytes()
    return size[0], size[1], base64.b64encode(data).decode()
