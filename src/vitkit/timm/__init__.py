"""timm's API for ViTs, implemented with vitkit's models: `import vitkit.timm as timm`.

Models have timm's names, arguments, methods, module and parameter names; `docs/coming-from-timm.md` lists them. timm is
never imported. The folders mirror timm's: `models`, `data`, `layers`.
"""

from vitkit.timm import data, layers, models
from vitkit.timm.models import (
    create_model,
    get_pretrained_cfg,
    get_pretrained_cfg_value,
    is_model,
    is_model_pretrained,
    list_models,
    list_modules,
    list_pretrained,
    model_entrypoint,
)

__all__ = [
    "create_model",
    "data",
    "get_pretrained_cfg",
    "get_pretrained_cfg_value",
    "is_model",
    "is_model_pretrained",
    "layers",
    "list_models",
    "list_modules",
    "list_pretrained",
    "model_entrypoint",
    "models",
]
