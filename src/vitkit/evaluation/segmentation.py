"""Object segmentation with the self-attention maps of the last block (DINO, Caron et al. 2021, section 4.2.2).

The predicted mask of a head is the set of patches that receives 60 % of its attention in the last layer. Each annotated
object is compared with the head of the highest Jaccard index. The result is the mean over the objects of an image, then
over the images. This is the protocol of the paper on the val set of PASCAL VOC 2012, as given by its authors.
"""

import dataclasses
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from vitkit.data.processor import Processor
from vitkit.evaluation import ModelOutputs
from vitkit.evaluation.requirements import EvaluationData
from vitkit.explanation._hooks import token_backbone
from vitkit.explanation.attention import attention_maps
from vitkit.explanation.foreground import foreground_mask
from vitkit.images import DEFAULT_LIMITS, probe
from vitkit.regular import read_bytes

READS = "model"
FRACTION = 0.6  # fraction of the attention of a head in its predicted mask
VOID = 255  # unlabelled pixels, which are ignored


def check(data: EvaluationData, masks: str) -> tuple[str, ...]:
    """Returns the names of the metrics. Raises ValueError if the model has no attention, or if there are no masks."""
    if data.processor is None:
        raise ValueError("segmentation needs an image processor to preprocess the masks, but none was given")
    model, folder = token_backbone(data.original_model), Path(masks).expanduser()
    if next(folder.rglob("*.png"), None) is None:
        raise ValueError(f"the folder '{masks}' contains no masks; expected .png files")
    heads = tuple(f"head{number}" for number in range(model.config.num_heads))
    return ("jaccard", "mean_head", "all_heads", *heads, "objects", "images")


def evaluate(subject: ModelOutputs, masks: str) -> dict[str, float]:
    """Returns the mean Jaccard index (intersection over union) of object masks and attention maps, for each head.

    `jaccard` is the index of the best head for each object, and `mean_head` the mean over heads. `all_heads` is the
    index of the mean map over heads, and `head0`, `head1`, ... are those of each head. `objects` and `images` are
    counts.

    `masks` is a folder. The mask of the image `dogs/1.jpg` is `dogs/1.png` or `1.png`, a PNG whose pixel values are
    object (or class) numbers: 0 is background, and 255 is ignored, as in PASCAL VOC. Images without a mask are
    excluded. Raises ValueError if no image has a mask.
    """
    if subject.processor is None:
        raise ValueError("segmentation needs an image processor to preprocess the masks, but none was given")
    per_image: list[Float[np.ndarray, "objects heads"]] = []
    for batch in subject.batches():
        paths = [find_mask(Path(masks).expanduser(), key) for key in batch.keys]
        rows = [row for row, path in enumerate(paths) if path is not None]
        if not rows:
            continue
        images = batch.images[rows].to(subject.device, next(subject.original_model.parameters()).dtype)
        predicted = predicted_masks(
            attention_maps(subject.original_model, images, [-1]).maps[:, 0], subject.original_model.config.patch_size
        )
        for mask, path in zip(predicted, (path for path in paths if path is not None), strict=True):
            truth = preprocess_mask(read_mask(path), subject.processor)[: mask.shape[1], : mask.shape[2]]
            overlaps = jaccard(mask.numpy(), truth)
            if overlaps.size:  # the crop may contain no object
                per_image.append(overlaps)
    if not per_image:
        raise ValueError(
            f"no mask in '{masks}' matches an image and contains an object; "
            "the mask of dogs/1.jpg must be dogs/1.png or 1.png"
        )
    return summarize(per_image)


def summarize(overlaps: Iterable[Float[np.ndarray, "objects heads"]]) -> dict[str, float]:
    """Averages Jaccard indices over objects and images.

    The last column of each array belongs to the mean attention map over heads.
    """
    per_image = list(overlaps)
    best = np.mean([each[:, :-1].max(axis=1).mean() for each in per_image])
    alone = np.mean([each.mean(axis=0) for each in per_image], axis=0)
    heads = {f"head{number}": float(value) for number, value in enumerate(alone[:-1])}
    return {
        "jaccard": float(best),
        "mean_head": float(alone[:-1].mean()),
        "all_heads": float(alone[-1]),
        **heads,
        "objects": float(sum(each.shape[0] for each in per_image)),
        "images": float(len(per_image)),
    }


def predicted_masks(maps: Float[Tensor, "b heads rows columns"], patch: tuple[int, int]) -> Bool[Tensor, "b masks r c"]:
    """Returns the predicted pixel mask of each head. The last mask is that of the mean map over heads."""
    every = torch.cat([maps, maps.mean(dim=1, keepdim=True)], dim=1)
    chosen = foreground_mask(every, FRACTION).cpu()
    return chosen.repeat_interleave(patch[0], dim=2).repeat_interleave(patch[1], dim=3)


def jaccard(
    predicted: Bool[np.ndarray, "masks r c"], truth: Int[np.ndarray, "r c"]
) -> Float[np.ndarray, "objects masks"]:
    """Returns the intersection over union of each object with each predicted mask. Void pixels are ignored.

    As a loop: `for o in objects: for m in masks: |predicted[m] and truth == o| / |predicted[m] or truth == o|`.
    """
    valid = truth != VOID
    numbers = np.setdiff1d(truth, (0, VOID))
    objects = (truth[valid][None] == numbers[:, None]).astype(np.float64)
    masks = predicted[:, valid].astype(np.float64)
    intersection = objects @ masks.T
    return intersection / (objects.sum(axis=1)[:, None] + masks.sum(axis=1)[None] - intersection)


def find_mask(folder: Path, key: str) -> Path | None:
    """Returns the mask file of an image, found by path or file name, or None if there is no mask."""
    path = Path(key).with_suffix(".png")
    return next((each for each in (folder / path, folder / path.name) if each.exists()), None)


def read_mask(path: Path) -> Image.Image:
    """Reads a mask file, whose pixels are object numbers. Raises ValueError for a color image."""
    data = read_bytes(path)
    probe(data, DEFAULT_LIMITS)
    with Image.open(BytesIO(data), formats=("PNG",)) as mask:
        if mask.mode not in ("1", "L", "P"):
            raise ValueError(f"'{path}' has the mode {mask.mode}; a mask must be a grayscale or palette image")
        numbers = np.asarray(mask).astype(np.uint8)
    return Image.fromarray(numbers)


def preprocess_mask(mask: Image.Image, processor: Processor) -> Int[np.ndarray, "r c"]:
    """Resizes and crops a mask as the processor does with the image, but with nearest-neighbor interpolation."""
    plain = dataclasses.replace(
        processor, interpolation="nearest", mean=(0.5,), std=(0.5,), fill=(VOID,), profile="ignore"
    )
    return np.asarray(plain.image(mask)).astype(np.int64)
