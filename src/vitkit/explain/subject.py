"""From pictures of any kind to a `Subject`: the model's input, and the same view large enough for people."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vitkit.data.processor import HALF, Processor
from vitkit.explain import Subject
from vitkit.explain.look import BATCH, evaluating
from vitkit.images import ImageError
from vitkit.models import Backbone, TokenBackbone

#: The short side of the pictures that are drawn, in pixels.
DRAWN_SIDE = 512


def read(model: Backbone, processor: Processor, images: Sequence[Any], labels: Sequence[str] = ()) -> Subject:
    """The subject for a model and any number of images: paths, bytes, PIL, numpy or torch pictures.

    Raises `ImageError` for a file that cannot be read, and ValueError where the images differ in shape after
    preprocessing.
    """
    originals = [_original(processor, image) for image in images]
    pixels = processor(originals).to(next(model.parameters()).device)
    pictures = tuple(_in_patches(model, pixels, large_view(processor, original)) for original in originals)
    return Subject(model=model, pixels=pixels, pictures=pictures, labels=tuple(labels))


def _in_patches(model: Backbone, pixels: Tensor, picture: Image.Image) -> Image.Image:
    """The picture without the remainder at the right and the bottom that fills no patch, which the model leaves out."""
    if not isinstance(model, TokenBackbone):
        return picture
    height, width = (
        1 - side % patch / side for side, patch in zip(pixels.shape[2:], model.config.patch_size, strict=True)
    )
    return picture.crop((0, 0, round(picture.width * width), round(picture.height * height)))


def _original(processor: Processor, image: Any) -> Image.Image:
    plain = {"resize_to": None, "mean": HALF, "std": HALF, "fill": (0, 0, 0)}
    try:
        return dataclasses.replace(processor, resize="none", center_crop="none", **plain).picture(image)
    except ImageError as error:
        name = image if isinstance(image, str | os.PathLike) else "an image"
        raise ImageError(error.code, f"{name}: {error}") from None


def large_view(processor: Processor, original: Image.Image) -> Image.Image:
    """What the model sees of a picture: the same part of it, undistorted, with about `DRAWN_SIDE` pixels a side."""
    if processor.resize == "squash" and processor.center_crop == "none":
        return _to_side(original)
    if processor.resize == "none":
        return _to_side(processor.picture(original).convert("RGB"))
    factor = max(1, round(DRAWN_SIDE / min(processor.size)))
    to = processor.resize_to
    scaled = to if to is None else to * factor if isinstance(to, int) else (to[0] * factor, to[1] * factor)
    size = (processor.size[0] * factor, processor.size[1] * factor)
    return _to_side(dataclasses.replace(processor, size=size, resize_to=scaled).picture(original).convert("RGB"))


def _to_side(picture: Image.Image) -> Image.Image:
    factor = DRAWN_SIDE / min(picture.size)
    # A very long picture is not blown up with its short side.
    factor = min(factor, 4 * DRAWN_SIDE / max(picture.size))
    width, height = (max(1, round(side * factor)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def need_images(subject: Subject) -> None:
    """Raises ValueError where the subject has no image."""
    if subject.pixels.shape[0] == 0:
        raise ValueError("this explanation is of an image: give at least one")


def top_classes(subject: Subject) -> tuple[str, ...]:
    """The likeliest class of each image with its softmax score; empty captions for a model that does not classify."""
    if not subject.model.config.num_classes:
        return ("",) * subject.pixels.shape[0]
    with evaluating(subject.model), torch.no_grad():
        logits = torch.cat([subject.model(batch) for batch in subject.pixels.split(BATCH)])
    if logits.ndim != 2:
        return ("",) * subject.pixels.shape[0]
    scores, classes = logits.softmax(dim=-1).max(dim=-1)
    return tuple(
        f"{label_name(subject, int(index))} {float(score):.0%}" for score, index in zip(scores, classes, strict=True)
    )


def label_name(subject: Subject, index: int) -> str:
    """The label of a class, up to its first comma; its number where there are no labels."""
    return subject.labels[index].split(",")[0] if subject.labels else f"class {index}"
