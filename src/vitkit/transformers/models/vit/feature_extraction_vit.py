"""The feature extractor of the ViT, under the module path of transformers."""

from vitkit.transformers import ViTFeatureExtractor

__all__ = ["ViTFeatureExtractor"]
