"""The config of the ViT, under the module path of transformers."""

from vitkit.transformers import ViTConfig

__all__ = ["ViTConfig"]
