"""The ViT API of Hugging Face transformers, implemented with vitkit's layers.

Code written for transformers' ViT runs after changing the import. Models, config, image processor and pipeline have the
names, arguments, outputs and errors of transformers 4 and 5; docs/coming-from-transformers.md compares them. The
computations are those of `vitkit.layers` and `vitkit.data.processor`; transformers is never imported. The Flax classes
of version 4 are imported from `vitkit.jax` on first use.
"""

from typing import Any

from vitkit.transformers.batch import BatchFeature
from vitkit.transformers.configuration import PreTrainedConfig, PretrainedConfig, ViTConfig
from vitkit.transformers.image_processing import ViTImageProcessor
from vitkit.transformers.modeling import ViTForImageClassification, ViTForMaskedImageModeling, ViTModel
from vitkit.transformers.outputs import (
    BaseModelOutputWithPooling,
    ImageClassifierOutput,
    MaskedImageModelingOutput,
    ModelOutput,
)
from vitkit.transformers.pipelines import pipeline
from vitkit.transformers.pretrained import PreTrainedModel, ViTPreTrainedModel

# transformers has had several image processors for ViT (slow, fast, PIL) and a feature extractor; here they are one.
AutoFeatureExtractor = AutoImageProcessor = ViTImageProcessor
ViTImageProcessorFast = ViTImageProcessorPil = ViTFeatureExtractor = ViTImageProcessor

# ViT is the only family here; loading a folder with another model_type raises ValueError.
AutoConfig = ViTConfig
AutoModel = ViTModel
AutoModelForImageClassification = ViTForImageClassification
AutoModelForMaskedImageModeling = ViTForMaskedImageModeling

__all__ = [
    "AutoConfig",
    "AutoFeatureExtractor",
    "AutoImageProcessor",
    "AutoModel",
    "AutoModelForImageClassification",
    "AutoModelForMaskedImageModeling",
    "BaseModelOutputWithPooling",
    "BatchFeature",
    "ImageClassifierOutput",
    "MaskedImageModelingOutput",
    "ModelOutput",
    "PreTrainedConfig",
    "PreTrainedModel",
    "PretrainedConfig",
    "ViTConfig",
    "ViTFeatureExtractor",
    "ViTForImageClassification",
    "ViTForMaskedImageModeling",
    "ViTImageProcessor",
    "ViTImageProcessorFast",
    "ViTImageProcessorPil",
    "ViTModel",
    "ViTPreTrainedModel",
    "pipeline",
]


def __getattr__(name: str) -> Any:
    if name in ("FlaxViTForImageClassification", "FlaxViTModel"):
        import vitkit.jax

        return getattr(vitkit.jax, name)
    raise AttributeError(f"module 'vitkit.transformers' has no attribute '{name}'")
