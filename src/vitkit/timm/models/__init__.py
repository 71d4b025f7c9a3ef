"""timm's models: `create_model`, names of architectures, and the model classes."""

from vitkit.timm.models._factory import create_model, model_entrypoint, parse_model_name, safe_model_name
from vitkit.timm.models._features import FeatureGetterNet, FeatureInfo, feature_take_indices
from vitkit.timm.models._registry import (
    get_pretrained_cfg,
    get_pretrained_cfg_value,
    is_model,
    is_model_in_modules,
    is_model_pretrained,
    list_models,
    list_modules,
    list_pretrained,
    split_model_name_tag,
)
from vitkit.timm.models._weights import load_checkpoint
from vitkit.timm.models.beit import Beit
from vitkit.timm.models.deit import VisionTransformerDistilled
from vitkit.timm.models.eva import Eva
from vitkit.timm.models.resnetv2 import ResNetV2
from vitkit.timm.models.vision_transformer import VisionTransformer

__all__ = [
    "Beit",
    "Eva",
    "FeatureGetterNet",
    "FeatureInfo",
    "ResNetV2",
    "VisionTransformer",
    "VisionTransformerDistilled",
    "create_model",
    "feature_take_indices",
    "get_pretrained_cfg",
    "get_pretrained_cfg_value",
    "is_model",
    "is_model_in_modules",
    "is_model_pretrained",
    "list_models",
    "list_modules",
    "list_pretrained",
    "load_checkpoint",
    "model_entrypoint",
    "parse_model_name",
    "safe_model_name",
    "split_model_name_tag",
]
