"""Runs images of different sizes in one batch, packed into sequences without padding (NaViT).

Packing works for every `TokenBackbone` that implements `position_inputs` and for all its heads. The model is neither
retrained nor converted. The output of each image is the same as without packing.

    images = [torch.rand(3, 224, 320), torch.rand(3, 160, 96)]  # normalized, sides are multiples of the patch size
    scores = packing.logits(model, images)                      # (images, classes), in the order of the images
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from vitkit.layers import Features
from vitkit.layers.packing import Packed, run_packed
from vitkit.models import Backbone, TokenBackbone, _pooling

#: Maximum number of tokens in one pack, which bounds the memory of activations.
TOKENS = 4096


def features(model: Backbone, images: Sequence[Float[Tensor, "c _ _"]], *, tokens: int = TOKENS) -> list[Features]:
    """Returns the final features of each image, in input order. Each element is a batch of one image.

    `tokens` is the maximum size of a pack; a larger image is a pack of its own. Raises ValueError for a model that
    cannot pack, and whatever the model raises for an image.
    """
    results: dict[int, Features] = {}
    for indices, packed in _packs(_token_backbone(model), images, tokens):
        groups = encode(model, packed).split()
        singles = [
            group.each(lambda tensor, row=row: tensor[row : row + 1])
            for group in groups
            for row in range(len(group.tokens))
        ]
        results.update(zip(indices, singles, strict=True))
    return [results[index] for index in range(len(images))]


def logits(
    model: Backbone, images: Sequence[Float[Tensor, "c _ _"]], *, tokens: int = TOKENS
) -> Float[Tensor, "images classes"]:
    """Returns the logits of images of different sizes, in the order of the images.

    Raises ValueError for a head that reads every token (pool "none"), whose logits have one shape per image.
    """
    if getattr(model.config, "pool", "") == "none":
        raise ValueError("with pool='none' the number of logits differs between images; use `features` instead")
    if not images:
        raise ValueError("there are no images to pack; pass at least one image")
    results: list[Tensor] = [torch.empty(0)] * len(images)
    for indices, packed in _packs(_token_backbone(model), images, tokens):
        scores = torch.cat([model.logits(group) for group in encode(model, packed).split()])
        for index, score in zip(indices, scores, strict=True):
            results[index] = score
    return torch.stack(results)


def pack(model: Backbone, images: Sequence[Float[Tensor, "c _ _"]]) -> Packed:
    """Embeds images and packs their tokens. Position embeddings are resized to the patch grid of each image.

    The images are sorted by size (`order`). It is differentiable, as is `encode`.
    """
    backbone = _token_backbone(model)
    for image in images:
        backbone.patch_embed.check_filled(image[None], backbone.config.image_size)
    sizes = groupby((images[index] for index in order(images)), key=lambda image: image.shape)
    return Packed.join([backbone.embed(torch.stack(list(group))) for _, group in sizes])


def order(images: Sequence[Float[Tensor, "c _ _"]]) -> list[int]:
    """Returns the indices of the images, sorted by increasing area, which is the order that `pack` uses."""
    return sorted(range(len(images)), key=lambda index: (images[index][0].numel(), images[index].shape, index))


def encode(model: Backbone, packed: Packed) -> Packed:
    """Runs packed tokens through all blocks and the final norm. Results equal those of `TokenBackbone.encode`."""
    backbone = _token_backbone(model)
    class_tokens = _pooling.class_token_list(backbone.config)
    positions = [backbone.position_inputs(grid) for grid in packed.grids]
    encoded = run_packed(backbone.blocks, packed, positions, class_tokens)
    earlier = _pooling.earlier(class_tokens, backbone.config, backbone.norm)
    return replace(encoded, tokens=backbone.norm(encoded.tokens), earlier=earlier)


def _token_backbone(model: Backbone) -> TokenBackbone:
    if not isinstance(model, TokenBackbone):
        raise ValueError(
            f"{type(model).__name__} does not process tokens and cannot pack images; run the model on "
            "each size separately"
        )
    return model


def _packs(
    model: TokenBackbone, images: Sequence[Float[Tensor, "c _ _"]], tokens: int
) -> Iterator[tuple[list[int], Packed]]:
    """Yields packs of at most `tokens` tokens (or one larger image), each with the indices of its images."""
    patch = model.config.patch_size
    indices: list[int] = []
    total = 0
    for index in order(images):
        height, width = images[index].shape[-2:]
        size = (height // patch[0]) * (width // patch[1])
        if indices and total + size > tokens:
            yield indices, pack(model, [images[each] for each in indices])
            indices, total = [], 0
        indices.append(index)
        total += size
    if indices:
        yield indices, pack(model, [images[each] for each in indices])
