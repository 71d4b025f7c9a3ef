"""The Hugging Face ViT API on our layers: code written for transformers' ViT runs after changing the import.

Models, config, image processor and pipeline have the names, arguments, outputs and errors of transformers 4 and 5;
docs/coming-from-transformers.md has the table. The arithmetic is that of `vitkit.layers` and `vitkit.data.processor`.
Nothing here imports transformers. The Flax classes of version 4 are those of `vitkit.jax`, imported when they are used.
"""

from typing import Any

from vitkit.transformers.batch import BatchFeature
from vitkit.transformers.configuration import ViTConfig
from vitkit.transformers.image_processing import ViTImageProcessor
from vitkit.transformers.modeling import ViTForImageClassification, ViTForMaskedImageModeling, ViTModel
from vitkit.transformers.outputs import (
    BaseModelOutputWithPooling,
    ImageClassifierOutput,
    MaskedImageModelingOutput,
    ModelOutput,
)
from vitkit.transformers.pipelines import pipeline
from vitkit.transformers.pretrained import ViTPreTrainedModel

# One class under the names it had: the slow, the fast and the PIL one, and the extractor before them.
AutoFeatureExtractor = AutoImageProcessor = ViTImageProcessor
ViTImageProcessorFast = ViTImageProcessorPil = ViTFeatureExtractor = ViTImageProcessor

# There is one family here; a folder of another is refused by its type.
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
