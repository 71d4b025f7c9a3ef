"""Layers of the models: `nn.Module` classes and functions on tensors, which do not depend on model configs.

They know nothing of configs, devices and precision. The letters in shapes: b batch, n tokens, d width, h heads,
k width of a head, c channels, r and c (or rows and columns) of the grid.
"""

from vitkit.layers.activations import ActivationName, activation
from vitkit.layers.attention import Attention, attention_weights
from vitkit.layers.axial import AxialBlock, RelativeLineAttention
from vitkit.layers.batch_norm import BatchNorm
from vitkit.layers.block import MLP, Block, DropPath, LayerScale, SwiGLU, encoder_blocks, layer_norm, run_blocks
from vitkit.layers.channels import adapt_input_weight, check_axes, check_floats
from vitkit.layers.features import Features, join_tokens
from vitkit.layers.init import init_layers, init_lecun, init_mae, init_truncated
from vitkit.layers.mode import eval_mode
from vitkit.layers.packing import Packed, run_packed
from vitkit.layers.patches import PatchEmbed, check_filled, resize_patches
from vitkit.layers.pool import MapPool, pool_tokens, pre_logits
from vitkit.layers.position import (
    RESIZES,
    PositionInput,
    factorized_tables,
    resize_positions,
    resize_tables,
    sincos2d,
    with_special_rows,
)
from vitkit.layers.relative import (
    RELATIVE_RESIZES,
    num_offsets,
    relative_bias,
    relative_index,
    relative_logits,
    relative_rows,
    resize_offsets,
    resize_relative,
)
from vitkit.layers.resize_matrix import is_symbolic
from vitkit.layers.resnet import (
    BasicBlock,
    GroupNorm,
    MaxPoolSame,
    PostBottleneck,
    PreBottleneck,
    ResNetStem,
    StdConv,
    pad_same,
    plain_conv,
    resnet_stages,
    resnet_stride,
    resnet_width,
    same_padding,
)
from vitkit.layers.rotary import axial_rotation, rotary_periods, rotate
from vitkit.layers.taps import Blocks, TapOptions, Taps, block_indices, make_taps, run_stages

__all__ = [
    "MLP",
    "RELATIVE_RESIZES",
    "RESIZES",
    "ActivationName",
    "Attention",
    "AxialBlock",
    "BasicBlock",
    "BatchNorm",
    "Block",
    "Blocks",
    "DropPath",
    "Features",
    "GroupNorm",
    "LayerScale",
    "MapPool",
    "MaxPoolSame",
    "Packed",
    "PatchEmbed",
    "PositionInput",
    "PostBottleneck",
    "PreBottleneck",
    "RelativeLineAttention",
    "ResNetStem",
    "StdConv",
    "SwiGLU",
    "TapOptions",
    "Taps",
    "activation",
    "adapt_input_weight",
    "attention_weights",
    "axial_rotation",
    "block_indices",
    "check_axes",
    "check_filled",
    "check_floats",
    "encoder_blocks",
    "eval_mode",
    "factorized_tables",
    "init_layers",
    "init_lecun",
    "init_mae",
    "init_truncated",
    "is_symbolic",
    "join_tokens",
    "layer_norm",
    "make_taps",
    "num_offsets",
    "pad_same",
    "plain_conv",
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
    "run_stages",
    "same_padding",
    "sincos2d",
    "with_special_rows",
]
