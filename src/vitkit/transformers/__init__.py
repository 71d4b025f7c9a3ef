"""The API of Hugging Face transformers for ViT and related models, implemented with vitkit's layers.

Code written for transformers runs after changing the import. Models, configs, image processors and pipelines have the
names, arguments, outputs and errors of transformers 4 and 5; docs/coming-from-transformers.md compares them. The
computations are those of `vitkit.layers` and `vitkit.data.processor`; transformers is never imported. The names below
are imported when they are first used; the Flax classes of version 4 need `vitkit[jax]`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitkit.transformers.auto import (
        AutoBackbone,
        AutoConfig,
        AutoModel,
        AutoModelForImageClassification,
        AutoModelForMaskedImageModeling,
        AutoModelForPreTraining,
        AutoModelForSemanticSegmentation,
    )
    from vitkit.transformers.auto_processing import AutoFeatureExtractor, AutoImageProcessor
    from vitkit.transformers.batch import BatchFeature
    from vitkit.transformers.configuration import PreTrainedConfig, PretrainedConfig, ViTConfig
    from vitkit.transformers.families.beit import (
        BeitConfig,
        BeitForImageClassification,
        BeitForMaskedImageModeling,
        BeitModel,
        BeitPreTrainedModel,
    )
    from vitkit.transformers.families.beit_segmentation import BeitBackbone, BeitForSemanticSegmentation
    from vitkit.transformers.families.deit import (
        DeiTConfig,
        DeiTForImageClassification,
        DeiTForImageClassificationWithTeacher,
        DeiTForMaskedImageModeling,
        DeiTModel,
        DeiTPreTrainedModel,
    )
    from vitkit.transformers.families.dinov2 import (
        Dinov2Backbone,
        Dinov2Config,
        Dinov2ForImageClassification,
        Dinov2Model,
        Dinov2PreTrainedModel,
        Dinov2WithRegistersBackbone,
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersForImageClassification,
        Dinov2WithRegistersModel,
        Dinov2WithRegistersPreTrainedModel,
    )
    from vitkit.transformers.families.dinov3_vit import (
        DINOv3ViTBackbone,
        DINOv3ViTConfig,
        DINOv3ViTModel,
        DINOv3ViTPreTrainedModel,
    )
    from vitkit.transformers.families.resnet import (
        ResNetBackbone,
        ResNetConfig,
        ResNetForImageClassification,
        ResNetModel,
        ResNetPreTrainedModel,
    )
    from vitkit.transformers.families.vit_mae import (
        ViTMAEConfig,
        ViTMAEForPreTraining,
        ViTMAEModel,
        ViTMAEPreTrainedModel,
    )
    from vitkit.transformers.families.vit_msn import (
        ViTMSNConfig,
        ViTMSNForImageClassification,
        ViTMSNModel,
        ViTMSNPreTrainedModel,
    )
    from vitkit.transformers.image_processing import BaseImageProcessor
    from vitkit.transformers.image_processors import (
        BeitFeatureExtractor,
        BeitImageProcessor,
        BeitImageProcessorFast,
        BeitImageProcessorPil,
        BitImageProcessor,
        BitImageProcessorFast,
        BitImageProcessorPil,
        ConvNextFeatureExtractor,
        ConvNextImageProcessor,
        ConvNextImageProcessorFast,
        ConvNextImageProcessorPil,
        DeiTFeatureExtractor,
        DeiTImageProcessor,
        DeiTImageProcessorFast,
        DeiTImageProcessorPil,
        DINOv3ViTImageProcessor,
        DINOv3ViTImageProcessorFast,
        ViTFeatureExtractor,
        ViTImageProcessor,
        ViTImageProcessorFast,
        ViTImageProcessorPil,
    )
    from vitkit.transformers.modeling import ViTForImageClassification, ViTForMaskedImageModeling, ViTModel
    from vitkit.transformers.outputs import (
        BackboneOutput,
        BaseModelOutput,
        BaseModelOutputWithPooling,
        BaseModelOutputWithPoolingAndNoAttention,
        ImageClassifierOutput,
        ImageClassifierOutputWithNoAttention,
        MaskedImageModelingOutput,
        MaskedLMOutput,
        ModelOutput,
        SemanticSegmenterOutput,
    )
    from vitkit.transformers.pipelines import pipeline
    from vitkit.transformers.pretrained import PreTrainedModel, ViTPreTrainedModel

# The public names of each module.
_NAMES = {
    "auto": (
        "AutoBackbone",
        "AutoConfig",
        "AutoModel",
        "AutoModelForImageClassification",
        "AutoModelForMaskedImageModeling",
        "AutoModelForPreTraining",
        "AutoModelForSemanticSegmentation",
    ),
    "auto_processing": ("AutoFeatureExtractor", "AutoImageProcessor"),
    "batch": ("BatchFeature",),
    "configuration": ("PreTrainedConfig", "PretrainedConfig", "ViTConfig"),
    "families.beit": (
        "BeitConfig",
        "BeitForImageClassification",
        "BeitForMaskedImageModeling",
        "BeitModel",
        "BeitPreTrainedModel",
    ),
    "families.beit_segmentation": ("BeitBackbone", "BeitForSemanticSegmentation"),
    "families.deit": (
        "DeiTConfig",
        "DeiTForImageClassification",
        "DeiTForImageClassificationWithTeacher",
        "DeiTForMaskedImageModeling",
        "DeiTModel",
        "DeiTPreTrainedModel",
    ),
    "families.dinov2": (
        "Dinov2Backbone",
        "Dinov2Config",
        "Dinov2ForImageClassification",
        "Dinov2Model",
        "Dinov2PreTrainedModel",
        "Dinov2WithRegistersBackbone",
        "Dinov2WithRegistersConfig",
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersPreTrainedModel",
    ),
    "families.dinov3_vit": ("DINOv3ViTBackbone", "DINOv3ViTConfig", "DINOv3ViTModel", "DINOv3ViTPreTrainedModel"),
    "families.resnet": (
        "ResNetBackbone",
        "ResNetConfig",
        "ResNetForImageClassification",
        "ResNetModel",
        "ResNetPreTrainedModel",
    ),
    "families.vit_mae": ("ViTMAEConfig", "ViTMAEForPreTraining", "ViTMAEModel", "ViTMAEPreTrainedModel"),
    "families.vit_msn": ("ViTMSNConfig", "ViTMSNForImageClassification", "ViTMSNModel", "ViTMSNPreTrainedModel"),
    "image_processing": ("BaseImageProcessor",),
    "image_processors": (
        "BeitFeatureExtractor",
        "BeitImageProcessor",
        "BeitImageProcessorFast",
        "BeitImageProcessorPil",
        "BitImageProcessor",
        "BitImageProcessorFast",
        "BitImageProcessorPil",
        "ConvNextFeatureExtractor",
        "ConvNextImageProcessor",
        "ConvNextImageProcessorFast",
        "ConvNextImageProcessorPil",
        "DINOv3ViTImageProcessor",
        "DINOv3ViTImageProcessorFast",
        "DeiTFeatureExtractor",
        "DeiTImageProcessor",
        "DeiTImageProcessorFast",
        "DeiTImageProcessorPil",
        "ViTFeatureExtractor",
        "ViTImageProcessor",
        "ViTImageProcessorFast",
        "ViTImageProcessorPil",
    ),
    "modeling": ("ViTForImageClassification", "ViTForMaskedImageModeling", "ViTModel"),
    "outputs": (
        "BackboneOutput",
        "BaseModelOutput",
        "BaseModelOutputWithPooling",
        "BaseModelOutputWithPoolingAndNoAttention",
        "ImageClassifierOutput",
        "ImageClassifierOutputWithNoAttention",
        "MaskedImageModelingOutput",
        "MaskedLMOutput",
        "ModelOutput",
        "SemanticSegmenterOutput",
    ),
    "pipelines": ("pipeline",),
    "pretrained": ("PreTrainedModel", "ViTPreTrainedModel"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "AutoBackbone",
    "AutoConfig",
    "AutoFeatureExtractor",
    "AutoImageProcessor",
    "AutoModel",
    "AutoModelForImageClassification",
    "AutoModelForMaskedImageModeling",
    "AutoModelForPreTraining",
    "AutoModelForSemanticSegmentation",
    "BackboneOutput",
    "BaseImageProcessor",
    "BaseModelOutput",
    "BaseModelOutputWithPooling",
    "BaseModelOutputWithPoolingAndNoAttention",
    "BatchFeature",
    "BeitBackbone",
    "BeitConfig",
    "BeitFeatureExtractor",
    "BeitForImageClassification",
    "BeitForMaskedImageModeling",
    "BeitForSemanticSegmentation",
    "BeitImageProcessor",
    "BeitImageProcessorFast",
    "BeitImageProcessorPil",
    "BeitModel",
    "BeitPreTrainedModel",
    "BitImageProcessor",
    "BitImageProcessorFast",
    "BitImageProcessorPil",
    "ConvNextFeatureExtractor",
    "ConvNextImageProcessor",
    "ConvNextImageProcessorFast",
    "ConvNextImageProcessorPil",
    "DINOv3ViTBackbone",
    "DINOv3ViTConfig",
    "DINOv3ViTImageProcessor",
    "DINOv3ViTImageProcessorFast",
    "DINOv3ViTModel",
    "DINOv3ViTPreTrainedModel",
    "DeiTConfig",
    "DeiTFeatureExtractor",
    "DeiTForImageClassification",
    "DeiTForImageClassificationWithTeacher",
    "DeiTForMaskedImageModeling",
    "DeiTImageProcessor",
    "DeiTImageProcessorFast",
    "DeiTImageProcessorPil",
    "DeiTModel",
    "DeiTPreTrainedModel",
    "Dinov2Backbone",
    "Dinov2Config",
    "Dinov2ForImageClassification",
    "Dinov2Model",
    "Dinov2PreTrainedModel",
    "Dinov2WithRegistersBackbone",
    "Dinov2WithRegistersConfig",
    "Dinov2WithRegistersForImageClassification",
    "Dinov2WithRegistersModel",
    "Dinov2WithRegistersPreTrainedModel",
    "ImageClassifierOutput",
    "ImageClassifierOutputWithNoAttention",
    "MaskedImageModelingOutput",
    "MaskedLMOutput",
    "ModelOutput",
    "PreTrainedConfig",
    "PreTrainedModel",
    "PretrainedConfig",
    "ResNetBackbone",
    "ResNetConfig",
    "ResNetForImageClassification",
    "ResNetModel",
    "ResNetPreTrainedModel",
    "SemanticSegmenterOutput",
    "ViTConfig",
    "ViTFeatureExtractor",
    "ViTForImageClassification",
    "ViTForMaskedImageModeling",
    "ViTImageProcessor",
    "ViTImageProcessorFast",
    "ViTImageProcessorPil",
    "ViTMAEConfig",
    "ViTMAEForPreTraining",
    "ViTMAEModel",
    "ViTMAEPreTrainedModel",
    "ViTMSNConfig",
    "ViTMSNForImageClassification",
    "ViTMSNModel",
    "ViTMSNPreTrainedModel",
    "ViTModel",
    "ViTPreTrainedModel",
    "pipeline",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"vitkit.transformers.{_MODULES[name]}"), name)
    if name in ("FlaxViTForImageClassification", "FlaxViTModel"):
        import_module("vitkit.jax")  # raises an error with the command that installs JAX if it is missing
        return getattr(import_module("vitkit.transformers.flax_vit"), name)
    raise AttributeError(f"module 'vitkit.transformers' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
