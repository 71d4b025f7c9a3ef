"""Layers: tensors in, tensors out; plain numbers as arguments, no config, no device, no precision.

The letters in shapes: b batch, n tokens, d width, h heads, k width of a head, c channels, rows and columns of the grid.
"""

from vitkit.layers.attention import Attention
from vitkit.layers.block import MLP, Block, DropPath, LayerScale, activation, layer_norm
from vitkit.layers.features import Features
from vitkit.layers.init import init_layers, init_lecun
from vitkit.layers.patches import PatchEmbed
from vitkit.layers.pool import MapPool, pre_logits
from vitkit.layers.position import RESIZES, resize_positions, sincos2d

__all__ = [
    "MLP",
    "RESIZES",
    "Attention",
    "Block",
    "DropPath",
    "Features",
    "LayerScale",
    "MapPool",
    "PatchEmbed",
    "activation",
    "init_layers",
    "init_lecun",
    "layer_norm",
    "pre_logits",
    "resize_positions",
    "sincos2d",
]
