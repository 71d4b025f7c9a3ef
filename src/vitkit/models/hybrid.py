"""Hybrid ViTs, whose patches are taken from the feature map of a ResNet (ViT paper, section 3.1).

The ResNet is that of the original code (google-research/vision_transformer); R26 and the models with the stem only come
from "How to train your ViT?" (Steiner et al. 2021).
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from vitkit.layers import (
    GroupNorm,
    PatchEmbed,
    PostBottleneck,
    ResNetStem,
    StdConv,
    resnet_stages,
    resnet_stride,
    resnet_width,
)
from vitkit.models import vit


@dataclass(frozen=True, kw_only=True)
class Config(vit.Config):
    """Config of a hybrid ViT: the fields of a plain ViT, and the fields of its ResNet.

    `patch_size` is the size of a token in pixels: the ResNet's stride times the patch on its feature map. `depths` are
    the numbers of bottlenecks per stage: (3, 4, 6, 3) is a ResNet-50 with stride 32. For stride 16 the paper leaves out
    stage 4 and extends stage 3 by as many layers, (3, 4, 9); () is the stem only, with stride 4. `stem_width` is 64
    times the width factor. `weight_eps`, the epsilon of the weight standardization, is added to the standard deviation
    or to the variance (`weight_eps_on`). The defaults are the original's. timm uses 1e-8 on the variance and a
    `group_norm_eps` of 1e-5, so that its logits differ slightly.
    """

    depths: tuple[int, ...] = (3, 4, 9)
    stem_width: int = 64
    num_groups: int = 32
    group_norm_eps: float = 1e-6
    weight_eps: float = 1e-5
    weight_eps_on: Literal["std", "variance"] = "std"

    def __post_init__(self) -> None:
        """Raises ValueError for sizes and options that the model does not support."""
        super().__post_init__()
        if self.init != "jax":
            raise ValueError(f"init='{self.init}' cannot initialize a ResNet; use init='jax' for a hybrid ViT")
        if self.patch_sizes:
            raise ValueError(
                "a hybrid ViT does not support patch_sizes, because its patches come from the feature map of its ResNet"
            )
        if any(depth < 1 for depth in self.depths):
            raise ValueError(f"depths is {self.depths}; every stage needs at least 1 bottleneck")
        if self.num_groups < 1 or self.stem_width < 1 or self.stem_width % self.num_groups:
            raise ValueError(f"stem_width {self.stem_width} is not a positive multiple of num_groups {self.num_groups}")
        if any(patch % self.stride for patch in self.patch_size):
            raise ValueError(f"patch_size {self.patch_size} is not a multiple of the ResNet's stride {self.stride}")

    @property
    def stride(self) -> int:
        """Stride of the ResNet's feature map, in pixels of the image."""
        return resnet_stride(self.depths)

    @property
    def map_patch(self) -> tuple[int, int]:
        """Patch size on the ResNet's feature map, as (rows, columns)."""
        return self.patch_size[0] // self.stride, self.patch_size[1] // self.stride

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches. The ResNet rounds sizes up, and the patch embedding rounds them down."""
        rows, columns = (-(-size // self.stride) for size in self.image_size)
        return rows // self.map_patch[0], columns // self.map_patch[1]


def hybrid(config: Config) -> vit.ViT:
    """Builds a ViT whose patches come from the feature map of a ResNet.

    Parameter names are timm's: `patch_embed.backbone.stem` and `.stages`, or `patch_embed.backbone` for the stem only.
    """
    conv = partial(StdConv, eps=config.weight_eps, eps_on=config.weight_eps_on)
    norm = partial(GroupNorm, config.num_groups, eps=config.group_norm_eps)
    backbone: nn.Module = ResNetStem(config.channels, config.stem_width, conv=conv, norm=norm)
    if config.depths:
        stages = resnet_stages(config.stem_width, config.depths, bottleneck=PostBottleneck, conv=conv, norm=norm)
        backbone = nn.Sequential(OrderedDict(stem=backbone, stages=stages))
    map_width = resnet_width(config.stem_width, config.depths)
    return vit.ViT(config, PatchEmbed(map_width, config.width, config.map_patch, backbone=backbone))


Model = hybrid


def _preset(size: str, patch: int, depths: tuple[int, ...]) -> Config:
    width, depth, num_heads, mlp_width = vit.SIZES[size]
    return Config(
        patch_size=(patch, patch), width=width, depth=depth, num_heads=num_heads, mlp_width=mlp_width, depths=depths
    )


TINY = Config(
    image_size=(36, 32),
    patch_size=(16, 16),
    width=32,
    depth=2,
    num_heads=2,
    mlp_width=64,
    num_classes=5,
    depths=(2, 1),
    stem_width=8,
    num_groups=4,
)
# AugReg's name "R+ViT-Ti/16" assumes a stem of stride 2 times a patch of 8; the stride is 4, and a token has 32 pixels.
PRESETS = {
    "r+vit-ti/16": _preset("ti", 32, ()),
    "r26+vit-s/32": _preset("s", 32, (2, 2, 2, 2)),
    "r26+vit-b/32": _preset("b", 32, (2, 2, 2, 2)),
    "r50+vit-b/16": _preset("b", 16, (3, 4, 9)),
    "r50+vit-b/32": _preset("b", 32, (3, 4, 6, 3)),
    "r50+vit-l/16": _preset("l", 16, (3, 4, 9)),
    "r50+vit-l/32": _preset("l", 32, (3, 4, 6, 3)),
}
