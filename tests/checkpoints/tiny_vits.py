"""Tiny models with random weights, from vitkit and from the libraries used as references."""

import dataclasses
from typing import Any

import torch
from torch import nn

from vitkit import models
from vitkit.checkpoints import Checkpoint
from vitkit.data.labels import default_labels
from vitkit.data.processor import Processor
from vitkit.models.vit import Config

TINY = Config(
    image_size=(32, 32),
    patch_size=(8, 8),
    width=64,
    depth=2,
    num_heads=1,
    mlp_width=96,
    num_classes=5,
    activation="gelu",
)
# Configs that each format supports, with the options that only some formats have.
GOOGLE = dataclasses.replace(TINY, activation="gelu_tanh", num_heads=4)
CLIP = dataclasses.replace(
    TINY, pre_norm=True, patch_bias=False, head_bias=False, activation="quick_gelu", norm_eps=1e-5, num_heads=2,
    position_resize="bicubic",
)  # fmt: skip
SIGLIP = dataclasses.replace(
    TINY, class_token=False, pool="map", position_tokens="patches", activation="gelu_tanh", num_heads=2, num_classes=0
)
SUPPORTED: dict[str, list[Config]] = {
    "huggingface": [
        dataclasses.replace(TINY, position_resize="bicubic", num_heads=4, norm_eps=1e-12),
        dataclasses.replace(TINY, image_size=(48, 32), qkv_bias=False, activation="gelu_tanh", num_classes=0),
        dataclasses.replace(TINY, patch_size=(16, 8), channels=1, stochastic_depth=0.1, dropout=0.1),
        dataclasses.replace(TINY, num_heads=4, channels=12),
    ],
    "timm": [
        dataclasses.replace(TINY, position_resize="bicubic_antialias"),
        dataclasses.replace(TINY, num_heads=4, num_registers=3, position_tokens="patches", layer_scale=1e-4),
        dataclasses.replace(TINY, num_registers=2, position_tokens="all", image_size=(24, 48)),
        dataclasses.replace(TINY, class_token=False, pool="gap", norm="pooled", position_tokens="patches"),
        dataclasses.replace(TINY, class_token=False, pool="map", activation="gelu_tanh", position_tokens="patches"),
        dataclasses.replace(TINY, qk_norm=True, num_heads=2, qkv_bias=False, num_classes=0),
        dataclasses.replace(TINY, channels=4),
        dataclasses.replace(TINY, pre_norm=True, patch_bias=False, activation="quick_gelu", norm_eps=1e-5),
        dataclasses.replace(TINY, norm="none", layer_scale=0.1),
    ],
    "dinov2_huggingface": [
        dataclasses.replace(TINY, layer_scale=0.1, mlp_width=128, pool="token+gap", position_resize="bicubic"),
        dataclasses.replace(TINY, layer_scale=1.0, mlp="swiglu", mlp_width=88, num_registers=2, num_classes=0),
    ],
    "deit_single_huggingface": [
        dataclasses.replace(TINY, num_registers=1, position_tokens="all", position_resize="bicubic"),
        dataclasses.replace(TINY, num_registers=1, position_tokens="all", position_resize="bicubic", norm_eps=1e-12),
    ],
    "clip_huggingface": [
        CLIP,
        dataclasses.replace(CLIP, image_size=(40, 24), num_classes=0, activation="gelu", norm_eps=1e-6),
    ],
    "siglip_huggingface": [dataclasses.replace(SIGLIP, position_resize="bicubic")],
    "npz": [
        GOOGLE,
        dataclasses.replace(GOOGLE, pre_logits=32, channels=4),
        dataclasses.replace(GOOGLE, class_token=False, pool="gap", num_classes=0),
    ],
    "big_vision": [
        dataclasses.replace(GOOGLE, position_tokens="patches"),
        dataclasses.replace(GOOGLE, class_token=False, pool="map", position_tokens="patches"),
        dataclasses.replace(GOOGLE, class_token=False, pool="gap", position_tokens="patches", pre_logits=64),
    ],
    "torchvision": [
        dataclasses.replace(TINY, position_resize="bicubic"),
        dataclasses.replace(TINY, pre_logits=32, position_resize="bicubic"),
    ],
    "vitkit": [
        dataclasses.replace(TINY, position="sincos2d", class_token=False, pool="map", image_size=(40, 24)),
        dataclasses.replace(TINY, layer_scale=0.1, num_registers=2, pool="gap", norm="pooled", pre_logits=16),
        dataclasses.replace(TINY, pool="none", position="none", num_classes=0),
    ],
}


def fill(module: nn.Module, seed: int = 0) -> nn.Module:
    """Fills every parameter, also norms and biases, with random numbers, so that all values differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator) * 0.1
            parameter.copy_(noise + 1 if "norm" in name and name.endswith("weight") else noise)
    return module.eval()


def images(size: tuple[int, int], channels: int = 3) -> torch.Tensor:
    """Returns two images of noise."""
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))


def checkpoint(config: Config, **fields: Any) -> Checkpoint:
    """Returns a checkpoint of this config with random weights."""
    model = fill(models.build(config))
    mean = (0.5,) * config.channels
    processor = Processor.squash(config.image_size, mean=mean, std=mean, fill=(0,) * len(mean))
    made = {"model": model, "processor": processor, "labels": default_labels(config.num_classes)} | fields
    return Checkpoint(**made)
