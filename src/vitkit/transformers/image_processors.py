"""Image processors of DeiT, BEiT, BiT, DINOv2, DINOv3, ConvNeXT and ResNet, and feature extractors of transformers 4.

Each class names the defaults and the positional arguments of its class in transformers; the computation is that of
`BaseImageProcessor`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F

from vitkit.data.processor import CLIP_MEAN, CLIP_STD, HALF, IMAGENET_MEAN, IMAGENET_STD
from vitkit.images import is_tensor
from vitkit.transformers.batch import BatchFeature, Images, iterate_images
from vitkit.transformers.hub import Argument
from vitkit.transformers.image_processing import CROP, STEPS, TENSORS, BaseImageProcessor, ViTImageProcessor

SQUARE = {"height": 224, "width": 224}
RESIZING, VALUES = STEPS[:3], STEPS[3:]
# In transformers 4, DeiT and BEiT take `rescale_factor` before `do_rescale`.
OLD_VALUES = ("rescale_factor", "do_rescale", *STEPS[5:])


class DeiTImageProcessor(BaseImageProcessor):
    """Image processor of DeiT: resizes to 256 x 256 pixels, crops the center and scales to -1..1."""

    family = "DeiT"
    defaults: ClassVar[Mapping[str, Argument]] = {
        "size": {"height": 256, "width": 256},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": SQUARE,
    }
    arguments = (*RESIZING, *CROP, *OLD_VALUES)
    call_arguments = (*RESIZING, *CROP, *VALUES, *TENSORS)


class BeitImageProcessor(BaseImageProcessor):
    """Image processor of BEiT: resizes to 224 x 224 pixels and scales to -1..1. Also processes segmentation maps.

    `do_reduce_labels` maps the values of segmentation maps to one less, and 0 to 255. The defaults are those of
    transformers 5; version 4 resizes to 256 and crops, as `BeitFeatureExtractor` does.
    """

    family = "Beit"
    defaults: ClassVar[Mapping[str, Argument]] = {
        "resample": 3,
        "do_center_crop": False,
        "crop_size": SQUARE,
        "do_reduce_labels": False,
    }
    arguments = (*RESIZING, *CROP, *OLD_VALUES, "do_reduce_labels")
    call_arguments = ("segmentation_maps", *RESIZING, *CROP, *VALUES, "do_reduce_labels", *TENSORS)

    do_reduce_labels: bool
    return_tensors: str | None

    def preprocess(self, images: Images, *args: Argument, **kwargs: Argument) -> BatchFeature:
        """Processes images and segmentation maps.

        Returns `pixel_values`, and with `segmentation_maps` (class indices of pixels, one map per image) `labels`. Maps
        are resized and cropped like the images. Raises ValueError for maps that are not integers from 0 to 255.
        """
        given = dict(zip(self.call_arguments, args, strict=False)) | kwargs
        maps, return_tensors = given.pop("segmentation_maps", None), given.pop("return_tensors", None)
        batch = super().preprocess(images, **given)
        if maps is not None:
            settings = self._settings_of_call(given)
            labels = [_label_map(each, bool(settings["do_reduce_labels"])) for each in iterate_images(maps)]
            settings.update(image_mean=[0.0], image_std=[1.0], do_rescale=False, do_normalize=False)
            settings["data_format"] = "channels_first"
            batch["labels"] = [array[0].astype(np.int64) for array in self._arrays(labels, settings)]
        return batch.convert_to_tensors(self.return_tensors if return_tensors is None else return_tensors)

    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        target_sizes: Sequence[tuple[int, int]] | None = None,
        return_segmentation_scores: bool = False,
    ) -> list[Any]:
        """Returns the class index of every pixel of each image, from the logits of `BeitForSemanticSegmentation`.

        `target_sizes` are the (height, width) of the images in pixels, to which the logits are resized; without them
        the maps have the size of the logits. With `return_segmentation_scores`, each result has the fields
        `segmentation` and `segmentation_scores`, the logits. Raises ValueError if the numbers of sizes and images
        differ.
        """
        logits = outputs.logits
        if target_sizes is not None and len(target_sizes) != len(logits):
            raise ValueError(
                "Make sure that you pass in as many target sizes as the batch dimension of the logits: "
                f"{len(target_sizes)} sizes, {len(logits)} images"
            )
        sizes = [logits.shape[2:]] * len(logits) if target_sizes is None else target_sizes
        scores = [
            F.interpolate(each[None], size=[int(side) for side in size], mode="bilinear", align_corners=False)[0]
            for each, size in zip(logits, sizes, strict=True)
        ]
        maps = [each.argmax(dim=0) for each in scores]
        if not return_segmentation_scores:
            return maps
        pairs = zip(maps, scores, strict=True)
        return [BatchFeature({"segmentation": one, "segmentation_scores": other}) for one, other in pairs]


def _label_map(given: object, reduce: bool) -> np.ndarray:
    """Returns a segmentation map as uint8 (h, w). With `reduce`, subtracts 1 from each value; 0 becomes 255."""
    values = np.asarray(given.detach().cpu().numpy() if is_tensor(given) else given)  # type: ignore[attr-defined]
    values = values[0] if values.ndim == 3 and values.shape[0] == 1 else values
    if values.ndim != 2 or values.dtype.kind not in "iub" or (values.size and (values.min() < 0 or values.max() > 255)):
        raise ValueError(
            f"a segmentation map must have the shape (height, width) and integers from 0 to 255, got {values.dtype} of "
            f"shape {values.shape}"
        )
    values = values.astype(np.uint8)
    if reduce:
        values = np.where(values == 0, 255, values) - np.uint8(1)
        values = np.where(values == 254, 255, values)
    return values.astype(np.uint8)


class BitImageProcessor(BaseImageProcessor):
    """Image processor of BiT and DINOv2: resizes the short side to 224 pixels and crops the center."""

    family = "Bit"
    defaults: ClassVar[Mapping[str, Argument]] = {
        "size": {"shortest_edge": 224},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": SQUARE,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
        "do_convert_rgb": True,
        "default_to_square": False,
    }
    arguments = (*RESIZING, *CROP, *VALUES, "do_convert_rgb")
    call_arguments = (*RESIZING, *CROP, *VALUES, "do_convert_rgb", *TENSORS)


class ConvNextImageProcessor(BaseImageProcessor):
    """Image processor of ConvNeXT and ResNet: resizes the short side to size / crop_pct and crops the center.

    From a size of 384 pixels on, images are resized to a square without a crop.
    """

    family = "ConvNext"
    defaults: ClassVar[Mapping[str, Argument]] = {
        "size": {"shortest_edge": 384},
        "crop_pct": 224 / 256,
        "resample": 3,
        "default_to_square": False,
    }
    arguments = (*STEPS[:2], "crop_pct", *STEPS[2:])
    call_arguments = (*STEPS[:2], "crop_pct", *STEPS[2:], *TENSORS)

    crop_pct: float


class DINOv3ViTImageProcessor(BaseImageProcessor):
    """Image processor of DINOv3: resizes to 224 x 224 pixels and normalizes with ImageNet's mean and std.

    Images are resized in 8 bits. The only class of transformers resizes floating-point pixels with torchvision; the
    results differ by up to about one pixel value.
    """

    family = "DINOv3ViT"
    defaults: ClassVar[Mapping[str, Argument]] = {"image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD)}


class BeitFeatureExtractor(BeitImageProcessor):
    """`BeitImageProcessor` with the defaults of transformers 4: resizes to 256 x 256 pixels and crops the center."""

    defaults: ClassVar[Mapping[str, Argument]] = {
        **BeitImageProcessor.defaults,
        "size": {"height": 256, "width": 256},
        "do_center_crop": True,
    }


class ConvNextFeatureExtractor(ConvNextImageProcessor):
    """`ConvNextImageProcessor` with the default interpolation of transformers 4, which is bilinear."""

    defaults: ClassVar[Mapping[str, Argument]] = {
        **ConvNextImageProcessor.defaults,
        "resample": 2,
        "image_mean": list(HALF),
        "image_std": list(HALF),
    }


# transformers has several classes (slow, fast, PIL) and feature extractors of the same processors; here they are one.
ViTImageProcessorFast = ViTImageProcessorPil = ViTFeatureExtractor = ViTImageProcessor
DeiTImageProcessorFast = DeiTImageProcessorPil = DeiTFeatureExtractor = DeiTImageProcessor
BeitImageProcessorFast = BeitImageProcessorPil = BeitImageProcessor
BitImageProcessorFast = BitImageProcessorPil = BitImageProcessor
ConvNextImageProcessorFast = ConvNextImageProcessorPil = ConvNextImageProcessor
DINOv3ViTImageProcessorFast = DINOv3ViTImageProcessor
