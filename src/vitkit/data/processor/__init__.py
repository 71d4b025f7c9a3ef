"""From a picture to the numbers that a model was trained on; the settings travel with the weights.

processor.py     `Processor`: resize, centre crop, rescale, normalise
resampling.py    the same with torch's resampling, as transformers' torchvision backend does
geometry.py      which size a picture is resized to and where it is cropped, by each library's rounding
huggingface.py   preprocessor_config.json, every generation of it
timm.py          the pretrained_cfg of timm
"""

from vitkit.data.processor.geometry import Crop, Interpolation, Resize
from vitkit.data.processor.normalization import HALF, IMAGENET_MEAN, IMAGENET_STD
from vitkit.data.processor.processor import Picture, Processor

__all__ = ["HALF", "IMAGENET_MEAN", "IMAGENET_STD", "Crop", "Interpolation", "Picture", "Processor", "Resize"]
