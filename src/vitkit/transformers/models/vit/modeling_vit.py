"""The models of the ViT, and the modules of which they consist, under the module path of transformers."""

from vitkit.transformers import ViTForImageClassification, ViTForMaskedImageModeling, ViTModel, ViTPreTrainedModel
from vitkit.transformers.attention import ViTAttention, ViTSelfAttention, ViTSelfOutput
from vitkit.transformers.checkpointing import GradientCheckpointingLayer
from vitkit.transformers.embeddings import ViTEmbeddings, ViTPatchEmbeddings
from vitkit.transformers.modules import ViTEncoder, ViTIntermediate, ViTLayer, ViTOutput, ViTPooler
from vitkit.transformers.newer_names import ViTMLP

__all__ = [
    "GradientCheckpointingLayer",
    "ViTAttention",
    "ViTEmbeddings",
    "ViTEncoder",
    "ViTForImageClassification",
    "ViTForMaskedImageModeling",
    "ViTIntermediate",
    "ViTLayer",
    "ViTMLP",
    "ViTModel",
    "ViTOutput",
    "ViTPatchEmbeddings",
    "ViTPooler",
    "ViTPreTrainedModel",
    "ViTSelfAttention",
    "ViTSelfOutput",
]
