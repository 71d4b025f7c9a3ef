"""A complete Vision Transformer toolkit: classify, train, fine-tune, evaluate, explain and convert.

`vitkit.load(source)` returns a classifier for any checkpoint. The names below are imported when they are first used, so
that `import vitkit` is fast.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitkit.checkpoints import convert
    from vitkit.data.processor import Processor
    from vitkit.images import ImageError, Limits, open_image
    from vitkit.inference import Classifier, Prediction, Predictor, UntrainedHeadWarning, load
    from vitkit.task import Task
    from vitkit.transformers import (
        ViTConfig,
        ViTFeatureExtractor,
        ViTForImageClassification,
        ViTForMaskedImageModeling,
        ViTImageProcessor,
        ViTImageProcessorFast,
        ViTImageProcessorPil,
        ViTModel,
        pipeline,
    )
    from vitkit.transformers.flax_vit import FlaxViTForImageClassification, FlaxViTModel

__version__ = version("vitkit")

_MODULES = {
    "Classifier": "vitkit.inference",
    "FlaxViTForImageClassification": "vitkit.transformers",
    "FlaxViTModel": "vitkit.transformers",
    "ImageError": "vitkit.images",
    "Limits": "vitkit.images",
    "Prediction": "vitkit.inference",
    "Predictor": "vitkit.inference",
    "Processor": "vitkit.data.processor",
    "Task": "vitkit.task",
    "UntrainedHeadWarning": "vitkit.inference",
    "ViTConfig": "vitkit.transformers",
    "ViTFeatureExtractor": "vitkit.transformers",
    "ViTForImageClassification": "vitkit.transformers",
    "ViTForMaskedImageModeling": "vitkit.transformers",
    "ViTImageProcessor": "vitkit.transformers",
    "ViTImageProcessorFast": "vitkit.transformers",
    "ViTImageProcessorPil": "vitkit.transformers",
    "ViTModel": "vitkit.transformers",
    "convert": "vitkit.checkpoints",
    "load": "vitkit.inference",
    "open_image": "vitkit.images",
    "pipeline": "vitkit.transformers",
}

__all__ = [
    "Classifier",
    "FlaxViTForImageClassification",
    "FlaxViTModel",
    "ImageError",
    "Limits",
    "Prediction",
    "Predictor",
    "Processor",
    "Task",
    "UntrainedHeadWarning",
    "ViTConfig",
    "ViTFeatureExtractor",
    "ViTForImageClassification",
    "ViTForMaskedImageModeling",
    "ViTImageProcessor",
    "ViTImageProcessorFast",
    "ViTImageProcessorPil",
    "ViTModel",
    "__version__",
    "convert",
    "load",
    "open_image",
    "pipeline",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'vitkit' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
