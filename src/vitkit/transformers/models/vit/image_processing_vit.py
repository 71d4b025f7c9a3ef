"""The image processor of the ViT, under the module path of transformers."""

from vitkit.transformers import ViTImageProcessor

__all__ = ["ViTImageProcessor"]
