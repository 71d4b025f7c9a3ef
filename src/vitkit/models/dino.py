"""DINO and DINOv2: presets of the plain ViT, for weights that are pre-trained without labels.

Caron et al. 2021; Oquab et al. 2023; registers from Darcet et al. 2023, "Vision Transformers Need Registers". The
projection heads belong to the objective. DINOv3 has rotary positions and is another family.
"""

import dataclasses

from vitkit.models import vit

Config = vit.Config
Model = vit.ViT


def _first(size: str, patch: int) -> vit.Config:
    width, depth, num_heads, mlp_width = vit.SIZES[size]
    return Config(
        patch_size=(patch, patch),
        width=width,
        depth=depth,
        num_heads=num_heads,
        mlp_width=mlp_width,
        num_classes=0,
        position_resize="bicubic_offset",
        init="truncated",
    )


def _second(size: str, *, registers: bool = False) -> vit.Config:
    config = dataclasses.replace(
        _first("b" if size == "g" else size, 14),
        image_size=(518, 518),
        layer_scale=1e-5,
        stochastic_depth_shape="constant",
    )
    if size == "g":
        config = dataclasses.replace(config, width=1536, depth=40, num_heads=24, mlp_width=4096, mlp="swiglu")
    if not registers:
        return config
    # Registers have no position, and the models with registers resize the table by another method.
    return dataclasses.replace(config, num_registers=4, position_resize="bicubic_antialias")


TINY = Config(
    image_size=(32, 32),
    patch_size=(8, 8),
    width=32,
    depth=2,
    num_heads=2,
    mlp_width=48,
    num_classes=5,
    num_registers=2,
    pool="token+gap",
    pool_blocks=2,
    mlp="swiglu",
    layer_scale=0.1,
    stochastic_depth_shape="constant",
    position_resize="bicubic_antialias",
    init="truncated",
)
PRESETS = {
    **{f"dino-{size}/{patch}": _first(size, patch) for size in ("ti", "s", "b") for patch in (8, 16)},
    **{f"dinov2-{size}/14": _second(size) for size in ("s", "b", "l", "g")},
    **{f"dinov2-{size}/14-reg": _second(size, registers=True) for size in ("s", "b", "l", "g")},
}
