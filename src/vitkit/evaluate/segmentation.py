"""How well attention finds objects without having been told of any (DINO; Caron et al. 2021, section 4.2.2).

The patches that hold 60 % of a head's attention, in the last layer, are taken for an object. Each object that people
drew is compared with the head that fits it best; the Jaccard index is the mean over the objects of a picture, then over
the pictures (the protocol of the paper's table, as its authors gave it; there on the val set of PASCAL VOC 2012).
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from vitkit.data.processor import Processor
from vitkit.evaluate import Subject
from vitkit.explain.attention import attention_maps
from vitkit.explain.foreground import foreground_mask
from vitkit.images import DEFAULT_LIMITS, probe

READS = "model"
SHARE = 0.6  # of a head's attention
VOID = 255  # what people left open: judged neither way


def evaluate(subject: Subject, masks: str) -> dict[str, float]:
    """`jaccard` of the best head for each object, `mean_head` of all heads, `all_heads` of their mean map, and that of
    every head alone; how many `objects` and `pictures`.

    `masks` is a folder: the mask of the picture `dogs/1.jpg` is `dogs/1.png` or `1.png` in it, a PNG whose pixels are
    numbers of objects (or classes), 0 for the background, 255 for what is not judged, as PASCAL VOC has them. Pictures
    without a mask are left out; ValueError where none has one.
    """
    if subject.processor is None:
        raise ValueError("segmentation lays masks over what the model sees of a picture: it needs the processor")
    found: list[Float[np.ndarray, "objects heads"]] = []
    for batch in subject.batches():
        paths = [mask_of(Path(masks).expanduser(), key) for key in batch.keys]
        rows = [row for row, path in enumerate(paths) if path is not None]
        if not rows:
            continue
        images = batch.images[rows].to(subject.device, next(subject.exact.parameters()).dtype)
        guessed = guesses(attention_maps(subject.exact, images, [-1]).maps[:, 0], subject.exact.config.patch_size)
        for guess, path in zip(guessed, (path for path in paths if path is not None), strict=True):
            truth = view(read_mask(path), subject.processor)[: guess.shape[1], : guess.shape[2]]
            overlaps = jaccard(guess.numpy(), truth)
            if overlaps.size:  # a picture may show none of its objects to the model
                found.append(overlaps)
    if not found:
        raise ValueError(
            f"no picture has a mask with an object in '{masks}': for dogs/1.jpg that is dogs/1.png or 1.png"
        )
    return numbers(found)


def numbers(found: Iterable[Float[np.ndarray, "objects heads"]]) -> dict[str, float]:
    """The means over objects and pictures; the last column is the mean map's."""
    pictures = list(found)
    best = np.mean([each[:, :-1].max(axis=1).mean() for each in pictures])
    alone = np.mean([each.mean(axis=0) for each in pictures], axis=0)
    heads = {f"head{number}": float(value) for number, value in enumerate(alone[:-1])}
    return {
        "jaccard": float(best),
        "mean_head": float(alone[:-1].mean()),
        "all_heads": float(alone[-1]),
        **heads,
        "objects": float(sum(each.shape[0] for each in pictures)),
        "pictures": float(len(pictures)),
    }


def guesses(maps: Float[Tensor, "b heads rows columns"], patch: tuple[int, int]) -> Bool[Tensor, "b masks r c"]:
    """The pixels that each head takes for the object, and, last, that their mean does."""
    every = torch.cat([maps, maps.mean(dim=1, keepdim=True)], dim=1)
    chosen = foreground_mask(every, SHARE).cpu()
    return chosen.repeat_interleave(patch[0], dim=2).repeat_interleave(patch[1], dim=3)


def jaccard(guess: Bool[np.ndarray, "masks r c"], truth: Int[np.ndarray, "r c"]) -> Float[np.ndarray, "objects masks"]:
    """Intersection over union of every object with every guess, pixels that are void left out.

    for o in objects: for m in masks: |guess[m] and truth == o| / |guess[m] or truth == o|, over pixels not void.
    """
    judged = truth != VOID
    objects = np.setdiff1d(truth, (0, VOID))
    drawn = (truth[judged][None] == objects[:, None]).astype(np.float64)
    given = guess[:, judged].astype(np.float64)
    both = drawn @ given.T
    return both / (drawn.sum(axis=1)[:, None] + given.sum(axis=1)[None] - both)


def mask_of(folder: Path, key: str) -> Path | None:
    """The mask of a picture, by its path in the data, else by its name; None where it has none."""
    path = Path(key).with_suffix(".png")
    return next((each for each in (folder / path, folder / path.name) if each.is_file()), None)


def read_mask(path: Path) -> Image.Image:
    """The numbers of a mask as an 8-bit picture; ValueError for a picture that has colours in place of numbers."""
    data = path.read_bytes()
    probe(data, DEFAULT_LIMITS)
    with Image.open(path, formats=("PNG",)) as mask:
        if mask.mode not in ("1", "L", "P"):
            raise ValueError(f"'{path}' has colours (mode {mask.mode}): a mask has one number a pixel, grey or palette")
        numbers = np.asarray(mask).astype(np.uint8)
    return Image.fromarray(numbers)


def view(mask: Image.Image, processor: Processor) -> Int[np.ndarray, "r c"]:
    """What the model sees of a mask: resized and cropped as its picture is, without mixing numbers."""
    plain = dataclasses.replace(
        processor, interpolation="nearest", mean=(0.5,), std=(0.5,), fill=(VOID,), profile="ignore"
    )
    return np.asarray(plain.picture(mask)).astype(np.int64)
