"""The PIL image processor of the ViT, under the module path of transformers."""

from vitkit.transformers import ViTImageProcessorPil

__all__ = ["ViTImageProcessorPil"]
