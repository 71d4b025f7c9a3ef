"""The fast image processor of the ViT, under the module path of transformers."""

from vitkit.transformers import ViTImageProcessorFast

__all__ = ["ViTImageProcessorFast"]
