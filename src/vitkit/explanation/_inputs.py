"""Reads images for explanations. Each image is preprocessed for the model, and cropped equally for display."""

import dataclasses
import os
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from vitkit.data.processor import Processor, named
from vitkit.explanation import ExplainInputs
from vitkit.explanation._hooks import BATCH
from vitkit.images import DEFAULT_LIMITS, AnyImage, ImageError, Limits, Unlisted
from vitkit.layers import eval_mode
from vitkit.models import Backbone, TokenBackbone
from vitkit.text import percent, printable

#: Short side of the displayed images, in pixels.
DISPLAY_SIDE = 512


def read(model: Backbone, processor: Processor, images: Sequence[object], labels: Sequence[str] = ()) -> ExplainInputs:
    """Reads and preprocesses images (paths, bytes, PIL images, arrays or tensors) for an explanation of a model.

    Raises `ImageError` for an image that cannot be read, and ValueError if the images differ in shape after
    preprocessing.
    """
    originals = [original(processor, image) for image in images]
    pixels = processor(originals).to(next(model.parameters()).device)
    views = tuple(crop_to_patches(model, pixels, large_view(processor, each)) for each in originals)
    return ExplainInputs(model=model, pixels=pixels, images=views, labels=tuple(labels))


def crop_to_patches(model: Backbone, pixels: Tensor, image: Image.Image) -> Image.Image:
    """Crops the right and bottom borders that do not fill a patch, because the model ignores them."""
    if not isinstance(model, TokenBackbone):
        return image
    height, width = (
        1 - side % patch / side for side, patch in zip(pixels.shape[2:], model.config.patch_size, strict=True)
    )
    return image.crop((0, 0, round(image.width * width), round(image.height * height)))


def original(processor: Processor, image: object, limits: Limits = DEFAULT_LIMITS) -> AnyImage:
    """Reads an image at its full size, with the channels of the model. Raises ImageError if it cannot be read."""
    try:
        if isinstance(image, Unlisted):
            raise image.error
        return processor.full(image, limits=limits)
    except ImageError as error:
        name = printable(image) if isinstance(image, str | os.PathLike | Unlisted) else "an image"
        raise ImageError(error.code, f"{name}: {error}") from None


def readable(
    processor: Processor, images: Sequence[object], limits: Limits = DEFAULT_LIMITS
) -> tuple[list[AnyImage], list[ImageError]]:
    """Returns the images that can be read, and an error with the image name for each unreadable image."""
    found: list[AnyImage] = []
    errors: list[ImageError] = []
    for index, image in enumerate(images):
        try:
            found.append(original(processor, image, limits))
        except ImageError as error:
            errors.append(error)
        except (ValueError, TypeError) as error:
            errors.append(ImageError("unsupported_format", str(named(error, image, index))))
    return found, errors


def large_view(processor: Processor, original: AnyImage) -> Image.Image:
    """Returns the part of an image that the model sees, at about `DISPLAY_SIDE` pixels and without distortion.

    If the channels are neither RGB nor grayscale, the first three are shown, or the first of two.
    """
    if processor.resize == "squash" and processor.center_crop == "none":
        return _to_side(original.convert("RGB"))
    if processor.resize == "none":
        return _to_side(processor.image(original).convert("RGB"))
    factor = max(1, round(DISPLAY_SIDE / min(processor.size)))
    to = processor.resize_to
    scaled = to if to is None else to * factor if isinstance(to, int) else (to[0] * factor, to[1] * factor)
    size = (processor.size[0] * factor, processor.size[1] * factor)
    return _to_side(dataclasses.replace(processor, size=size, resize_to=scaled).image(original).convert("RGB"))


def _to_side(image: Image.Image) -> Image.Image:
    factor = DISPLAY_SIDE / min(image.size)
    # The long side of a very elongated image is limited.
    factor = min(factor, 4 * DISPLAY_SIDE / max(image.size))
    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def require_images(subject: ExplainInputs) -> None:
    """Raises ValueError if the inputs contain no image."""
    if subject.pixels.shape[0] == 0:
        raise ValueError("this explanation method needs at least one image, but no image was given")


def top_classes(subject: ExplainInputs) -> tuple[str, ...]:
    """Returns a caption for each image: the predicted class with its score, or the value of the first target.

    The captions of a model without classes are empty.
    """
    if not subject.model.config.num_classes:
        return ("",) * subject.pixels.shape[0]
    with eval_mode(subject.model), torch.no_grad():
        logits = torch.cat([subject.model(batch) for batch in subject.pixels.split(BATCH)])
    if logits.ndim != 2:
        return ("",) * subject.pixels.shape[0]
    task = subject.model.config.task
    if task.regression:
        return tuple(f"{label_name(subject, 0)} {value:.4g}" for value in task.scores(logits)[:, 0].tolist())
    scores, classes = task.scores(logits).max(dim=-1)
    return tuple(
        f"{label_name(subject, int(index))} {percent(float(score))}"
        for score, index in zip(scores, classes, strict=True)
    )


def label_name(subject: ExplainInputs, index: int) -> str:
    """Returns the label of a class up to the first comma, or `class INDEX` if there are no labels."""
    return subject.labels[index].split(",")[0] if subject.labels else f"class {index}"
