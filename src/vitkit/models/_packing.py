"""Pictures of different sizes and aspect ratios through one model in one pass, without padding (NaViT).

Works for every `TokenBackbone` that tells what its blocks need of a grid (`places`), with all its heads; nothing is
trained or converted, and each picture's result is that of the picture alone.

    images = [picture_of(3, 224, 320), picture_of(3, 160, 96), ...]       # normalised, any sizes of a patch and more
    scores = packing.logits(model, images)                                 # (pictures, classes), in the order given
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

#: At most so many tokens in one pack, which bounds the memory that activations take.
TOKENS = 4096


def features(model: Backbone, images: Sequence[Float[Tensor, "c _ _"]], *, tokens: int = TOKENS) -> list[Features]:
    """The final features of each picture (a batch of one each), in the order of the pictures.

    `tokens` bounds a pack; a larger picture is a pack by itself. Raises ValueError for a model that cannot pack, and
    for what the model itself refuses of a picture.
    """
    found: dict[int, Features] = {}
    for numbers, packed in _packs(_token_backbone(model), images, tokens):
        groups = encode(model, packed).split()
        singles = [
            group.each(lambda tensor, row=row: tensor[row : row + 1])
            for group in groups
            for row in range(len(group.tokens))
        ]
        found.update(zip(numbers, singles, strict=True))
    return [found[number] for number in range(len(images))]


def logits(
    model: Backbone, images: Sequence[Float[Tensor, "c _ _"]], *, tokens: int = TOKENS
) -> Float[Tensor, "pictures classes"]:
    """The logits of each picture, in the order of the pictures; see `features`.

    Raises ValueError for a head that reads every token (pool "none"): its logits have another shape for each picture.
    """
    if getattr(model.config, "pool", "") == "none":
        raise ValueError("pool='none' gives logits for every token, which differ in number: take `features` instead")
    if not images:
        raise ValueError("there are no pictures to pack")
    found: list[Tensor] = [torch.empty(0)] * len(images)
    for numbers, packed in _packs(_token_backbone(model), images, tokens):
        scores = torch.cat([model.logits(group) for group in encode(model, packed).split()])
        for number, score in zip(numbers, scores, strict=True):
            found[number] = score
    return torch.stack(found)


def pack(model: Backbone, images: Sequence[Float[Tensor, "c _ _"]]) -> Packed:
    """The embedded tokens of pictures, those of one size next to each other, with positions for each one's own grid.

    Pictures come sorted by size; `order` says which stands where. Differentiable, as is `encode`.
    """
    backbone = _token_backbone(model)
    sizes = groupby((images[number] for number in order(images)), key=lambda image: image.shape)
    return Packed.join([backbone.embed(torch.stack(list(group))) for _, group in sizes])


def order(images: Sequence[Float[Tensor, "c _ _"]]) -> list[int]:
    """The numbers of the pictures in the order in which `pack` puts them: the smallest area first."""
    return sorted(range(len(images)), key=lambda number: (images[number][0].numel(), images[number].shape, number))


def encode(model: Backbone, packed: Packed) -> Packed:
    """Embedded packed tokens through the blocks and the final norm: `TokenBackbone.encode` of each group."""
    backbone = _token_backbone(model)
    firsts = _pooling.firsts(backbone.config)
    encoded = run_packed(backbone.blocks, packed, [backbone.places(grid) for grid in packed.grids], firsts)
    earlier = _pooling.earlier(firsts, backbone.config, backbone.norm)
    return replace(encoded, tokens=backbone.norm(encoded.tokens), earlier=earlier)


def _token_backbone(model: Backbone) -> TokenBackbone:
    if not isinstance(model, TokenBackbone):
        raise ValueError(f"{type(model).__name__} has no sequence of tokens to pack: run it on each size by itself")
    return model


def _packs(
    model: TokenBackbone, images: Sequence[Float[Tensor, "c _ _"]], tokens: int
) -> Iterator[tuple[list[int], Packed]]:
    """Packs of at most so many tokens, each with the numbers of its pictures in its order."""
    patch = model.config.patch_size
    numbers: list[int] = []
    total = 0
    for number in order(images):
        height, width = images[number].shape[-2:]
        size = (height // patch[0]) * (width // patch[1])
        if numbers and total + size > tokens:
            yield numbers, pack(model, [images[each] for each in numbers])
            numbers, total = [], 0
        numbers.append(number)
        total += size
    if numbers:
        yield numbers, pack(model, [images[each] for each in numbers])
