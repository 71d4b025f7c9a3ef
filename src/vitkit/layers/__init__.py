"""Layers: tensors in, tensors out; plain numbers as arguments, no config, no device, no precision.

The letters in shapes: b batch, n tokens, d width, h heads, k width of a head, c channels, rows and columns of the grid.
"""

from vitkit.layers.attention import Attention
from vitkit.layers.axial import AxialBlock
from vitkit.layers.block import MLP, Block, DropPath, LayerScale, activation, layer_norm
from vitkit.layers.convolution import BatchNorm, GroupNorm, MaxPoolSame, StdConv, pad_same, same_padding
from vitkit.layers.features import Features
from vitkit.layers.init import init_layers, init_lecun
from vitkit.layers.patches import PatchEmbed
from vitkit.layers.pool import MapPool, pre_logits
from vitkit.layers.position import RESIZES, resize_positions, sincos2d
from vitkit.layers.relative import RelativeLineAttention
from vitkit.layers.resnet import (
    PostBottleneck,
    PreBottleneck,
    ResNetStem,
    resnet_stages,
    resnet_stride,
    resnet_width,
)

__all__ = [
    "MLP",
    "RESIZES",
    "Attention",
    "AxialBlock",
    "BatchNorm",
    "Block",
    "DropPath",
    "Features",
    "GroupNorm",
    "LayerScale",
    "MapPool",
    "MaxPoolSame",
    "PatchEmbed",
    "PostBottleneck",
    "PreBottleneck",
    "RelativeLineAttention",
    "ResNetStem",
    "StdConv",
    "activation",
    "init_layers",
    "init_lecun",
    "layer_norm",
    "pad_same",
    "pre_logits",
    "resize_positions",
    "resnet_stages",
    "resnet_stride",
    "resnet_width",
    "same_padding",
    "sincos2d",
]
