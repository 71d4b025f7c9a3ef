"""The module paths of the ViT in transformers."""

from vitkit.transformers import (
    ViTConfig,
    ViTFeatureExtractor,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTImageProcessor,
    ViTImageProcessorFast,
    ViTImageProcessorPil,
    ViTModel,
    ViTPreTrainedModel,
)

__all__ = [
    "ViTConfig",
    "ViTFeatureExtractor",
    "ViTForImageClassification",
    "ViTForMaskedImageModeling",
    "ViTImageProcessor",
    "ViTImageProcessorFast",
    "ViTImageProcessorPil",
    "ViTModel",
    "ViTPreTrainedModel",
]
