"""Layers of timm's ViTs, with timm's arguments and module names, implemented with `vitkit.layers`.

Linear layers, norms, dropout and stochastic depth are children that can be hooked, replaced, frozen or cast.
"""

from torch.nn.init import trunc_normal_

from vitkit.timm.layers._settings import LayerType, act_name, hide, move_first, norm_eps, to_2tuple
from vitkit.timm.layers.attention import Attention
from vitkit.timm.layers.drop import DropPath, LayerScale, PatchDropout
from vitkit.timm.layers.mlp import GluMlp, Mlp, SwiGLU
from vitkit.timm.layers.patch_embed import HybridEmbed, PatchEmbed, resample_patch_embed

__all__ = [
    "Attention",
    "DropPath",
    "GluMlp",
    "HybridEmbed",
    "LayerScale",
    "LayerType",
    "Mlp",
    "PatchDropout",
    "PatchEmbed",
    "SwiGLU",
    "act_name",
    "hide",
    "move_first",
    "norm_eps",
    "resample_patch_embed",
    "to_2tuple",
    "trunc_normal_",
]
