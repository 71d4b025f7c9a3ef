"""Layers: tensors in, tensors out; plain numbers as arguments, no config, no device, no precision.

The letters in shapes: b batch, n tokens, d width, h heads, k width of a head, c channels, rows and columns of the grid.
"""

from vitkit.layers.activations import ActivationName, activation
from vitkit.layers.attention import Attention, attention_weights
from vitkit.layers.axial import AxialBlock
from vitkit.layers.block import MLP, Block, DropPath, LayerScale, layer_norm
from vitkit.layers.convolution import BatchNorm, GroupNorm, MaxPoolSame, StdConv, pad_same, same_padding
from vitkit.layers.encoder import encoder_blocks, run_blocks
from vitkit.layers.features import Features, join_tokens
from vitkit.layers.init import init_layers, init_lecun, init_mae, init_truncated
from vitkit.layers.packing import Packed, run_packed
from vitkit.layers.patches import PatchEmbed, resize_patches
from vitkit.layers.place import Place
from vitkit.layers.pool import MapPool, pool_tokens, pre_logits
from vitkit.layers.position import (
    RESIZES,
    factorised_tables,
    resize_positions,
    resize_tables,
    sincos2d,
    with_special_rows,
)
from vitkit.layers.relative import RelativeLineAttention
from vitkit.layers.relative_bias import (
    RELATIVE_RESIZES,
    relative_bias,
    relative_index,
    relative_rows,
    resize_relative,
)
from vitkit.layers.relative_vectors import num_offsets, relative_logits, resize_offsets
from vitkit.layers.resnet import (
    PostBottleneck,
    PreBottleneck,
    ResNetStem,
    resnet_stages,
    resnet_stride,
    resnet_width,
)
from vitkit.layers.rotary import axial_rotation, rotary_periods, rotate
from vitkit.layers.swiglu import SwiGLU

__all__ = [
    "MLP",
    "RELATIVE_RESIZES",
    "RESIZES",
    "ActivationName",
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
    "Packed",
    "PatchEmbed",
    "Place",
    "PostBottleneck",
    "PreBottleneck",
    "RelativeLineAttention",
    "ResNetStem",
    "StdConv",
    "SwiGLU",
    "activation",
    "attention_weights",
    "axial_rotation",
    "encoder_blocks",
    "factorised_tables",
    "init_layers",
    "init_lecun",
    "init_mae",
    "init_truncated",
    "join_tokens",
    "layer_norm",
    "num_offsets",
    "pad_same",
    "pool_tokens",
    "pre_logits",
    "relative_bias",
    "relative_index",
    "relative_logits",
    "relative_rows",
    "resize_offsets",
    "resize_patches",
    "resize_positions",
    "resize_relative",
    "resize_tables",
    "resnet_stages",
    "resnet_stride",
    "resnet_width",
    "rotary_periods",
    "rotate",
    "run_blocks",
    "run_packed",
    "same_padding",
    "sincos2d",
    "with_special_rows",
]
