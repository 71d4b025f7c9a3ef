"""The Flax models of the ViT, under the module path of transformers."""

from vitkit.transformers.flax_vit import FlaxViTForImageClassification, FlaxViTModel, FlaxViTPreTrainedModel

__all__ = ["FlaxViTForImageClassification", "FlaxViTModel", "FlaxViTPreTrainedModel"]
