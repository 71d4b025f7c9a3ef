"""Image preprocessing of models. The settings are saved in the same folder as the weights.

processor.py      `Processor`: resize, center crop, rescale, normalize
inputs.py         the images of an input: one image, a list, an iterator, a dataset or a batch
geometry.py       sizes of resized images and positions of crops, with the rounding of each library
normalization.py  rescaling and normalization by lookup table
fast.py           resize and crop by vitkit's kernel, equal to Pillow
draft.py          reduced decoding of large JPEG files
resampling.py     resizing by torch, as in transformers' torchvision backend, and normalization on a device
huggingface.py    preprocessor_config.json of every version of transformers
timm.py           pretrained_cfg of timm
"""

from vitkit.data.processor.geometry import Crop, Interpolation, Resize
from vitkit.data.processor.inputs import ImageInput, each_image, split
from vitkit.data.processor.normalization import CLIP_MEAN, CLIP_STD, HALF, IMAGENET_MEAN, IMAGENET_STD
from vitkit.data.processor.processor import Processor, is_path, named

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "HALF",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Crop",
    "ImageInput",
    "Interpolation",
    "Processor",
    "Resize",
    "each_image",
    "is_path",
    "named",
    "split",
]
