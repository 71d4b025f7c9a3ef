"""Weight initialization as in the original JAX code of ViT, as in DeiT, DINO and BEiT, and as in MAE."""

import math

from torch import nn

from vitkit.layers.attention import Attention
from vitkit.layers.batch_norm import BatchNorm
from vitkit.layers.block import MLP, LayerScale, SwiGLU
from vitkit.layers.pool import MapPool
from vitkit.layers.resnet import StdConv

# The standard deviation of a standard normal distribution truncated at two standard deviations.
TRUNCATED_STD = 0.87962566103423978


def init_layers(model: nn.Module) -> None:
    """Initializes the layers of `model` as in the original JAX code, with torch's global random generator.

    Attention and MLP weights are Xavier-uniform (query, key and value separately), MLP biases normal with std 1e-6,
    standardized convolutions LeCun normal. Norms have scale one and bias zero; the last norm of a residual branch of
    convolutions has scale zero. Each model family initializes its patch projection, tables, special tokens and heads.
    """
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            nn.init.constant_(module.weight, getattr(module, "initial", 1.0))
            nn.init.zeros_(module.bias)
        elif isinstance(module, BatchNorm):
            module.init_weights()
        elif isinstance(module, StdConv):
            init_lecun(module)
        elif isinstance(module, Attention):
            _init_dense(module.qkv, parts=3)
            _init_dense(module.proj)
            _zero_biases(module)
            if module.relative_positions is not None:
                nn.init.normal_(module.relative_positions, std=0.02)
        elif isinstance(module, MLP | SwiGLU):
            for dense in (module.fc1, module.fc2):
                nn.init.xavier_uniform_(dense.weight)
                nn.init.normal_(dense.bias, std=1e-6)
        elif isinstance(module, MapPool):
            nn.init.xavier_uniform_(module.latent[0])
            for dense, parts in ((module.q, 1), (module.kv, 2), (module.proj, 1)):
                _init_dense(dense, parts=parts)
        elif isinstance(module, LayerScale):
            nn.init.constant_(module.gamma, module.initial)


def init_truncated(model: nn.Module, *, std: float = 0.02, cut: float = 2.0) -> None:
    """Initializes `model` as in DeiT, DINO and BEiT: normal weights truncated to [-`cut`, `cut`], zero biases.

    Special tokens and tables, which are parameters of the model itself, are sampled in the same way. Norms and patch
    projections have PyTorch's default initialization.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=std, a=-cut, b=cut)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d | nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, LayerScale):
            nn.init.constant_(module.gamma, module.initial)
        elif isinstance(module, Attention):
            _zero_biases(module)
            if module.relative_positions is not None:
                nn.init.trunc_normal_(module.relative_positions, std=std, a=-cut, b=cut)
    for parameter in model.parameters(recurse=False):
        nn.init.trunc_normal_(parameter, std=std, a=-cut, b=cut)


def init_mae(model: nn.Module, *, std: float = 0.02) -> None:
    """Initializes `model` as in MAE: Xavier-uniform weights, zero biases, and normal special tokens.

    The patch projection is Xavier-uniform, too, and the fused qkv projection counts as one matrix. The caller fills the
    fixed position table.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, LayerScale):
            nn.init.constant_(module.gamma, module.initial)
        elif isinstance(module, Attention) and module.relative_positions is not None:
            nn.init.normal_(module.relative_positions, std=std)
    for parameter in model.parameters(recurse=False):
        nn.init.normal_(parameter, std=std)


def init_lecun(layer: nn.Linear | nn.Conv2d) -> None:
    """Initializes a layer with the defaults of flax: LeCun normal weights (truncated) and zero bias."""
    fan_in = layer.weight[0].numel()
    std = math.sqrt(1.0 / fan_in) / TRUNCATED_STD
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _init_dense(layer: nn.Linear, parts: int = 1) -> None:
    for weight in layer.weight.chunk(parts):
        nn.init.xavier_uniform_(weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _zero_biases(attention: Attention) -> None:
    for parameter in (attention.q_bias, attention.v_bias, attention.relative_position_bias_table):
        if parameter is not None:
            nn.init.zeros_(parameter)
