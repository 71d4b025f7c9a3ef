"""Patch embeddings of images and of ResNet feature maps, with timm's arguments."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vitkit import layers
from vitkit.layers.channels import as_input
from vitkit.layers.patches import resize_kernel
from vitkit.timm.layers._settings import hide, to_2tuple


def resample_patch_embed(
    patch_embed: Tensor, new_size: tuple[int, int], interpolation: str = "bicubic", antialias: bool = True
) -> Tensor:
    """Resizes a patch projection (d, c, h, w) to another patch size, as timm does by default (FlexiViT's PI-resize)."""
    if tuple(new_size) == tuple(patch_embed.shape[2:]):
        return patch_embed

    def matrix(old: int, new: int) -> Tensor:
        unit = torch.eye(old, dtype=torch.float64)[:, None, None]
        resized = F.interpolate(unit, size=(1, new), mode=interpolation, antialias=antialias, align_corners=False)
        return torch.linalg.pinv(resized[:, 0, 0])

    return resize_kernel(patch_embed, *(matrix(*each) for each in zip(patch_embed.shape[2:], new_size, strict=True)))


class PatchEmbed(layers.PatchEmbed):
    """Patch embedding that returns tokens (b, n, d), or with `output_fmt="NHWC"` a feature map (b, rows, columns, d).

    Raises AssertionError for an image of another size than `img_size` if `strict_img_size`, and otherwise for a size
    that is not a multiple of the patch size. `dynamic_img_pad` pads such images with zeros.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] | None = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        norm_layer: Callable[[int], nn.Module] | None = None,
        flatten: bool = True,
        output_fmt: str | None = None,
        *,
        bias: bool = True,
        strict_img_size: bool = True,
        dynamic_img_pad: bool = False,
    ):
        super().__init__(in_chans, embed_dim, to_2tuple(patch_size))
        hide(self, "backbone")
        self.img_size = None if img_size is None else to_2tuple(img_size)
        self.flatten = flatten and output_fmt is None
        self.output_fmt = output_fmt or "NCHW"
        self.strict_img_size = strict_img_size
        self.dynamic_img_pad = dynamic_img_pad
        if not bias:
            self.proj = nn.Conv2d(in_chans, embed_dim, self.patch_size, self.patch_size, bias=False)
        self.norm = nn.Identity() if norm_layer is None else norm_layer(embed_dim)

    @property
    def grid_size(self) -> tuple[int, int] | None:
        """Rows and columns of patches at `img_size`."""
        return None if self.img_size is None else self.dynamic_feat_size(self.img_size, padded=False)

    @property
    def num_patches(self) -> int | None:
        """Number of patches at `img_size`."""
        return None if self.grid_size is None else math.prod(self.grid_size)

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Returns the stride of the patches in pixels."""
        return max(self.patch_size) if as_scalar else self.patch_size

    def dynamic_feat_size(self, img_size: tuple[int, int], padded: bool | None = None) -> tuple[int, int]:
        """Returns rows and columns of patches of an image of (height, width) pixels."""
        up = self.dynamic_img_pad if padded is None else padded
        rows, columns = (-(-s // p) if up else s // p for s, p in zip(img_size, self.patch_size, strict=True))
        return rows, columns

    def forward(  # type: ignore[override] - timm's name of the argument
        self, x: Tensor, patch_size: tuple[int, int] | None = None
    ) -> Tensor:
        """Returns the tokens of the images."""
        self.check_size(x)
        if self.dynamic_img_pad:
            rows, columns = (-side % patch for side, patch in zip(x.shape[2:], self.patch_size, strict=True))
            x = F.pad(x, (0, columns, 0, rows))
        x = self.proj(as_input(x, self.channels, self.proj))
        if self.flatten:
            x = rearrange(x, "b d r c -> b (r c) d")
        elif self.output_fmt == "NHWC":
            x = rearrange(x, "b d r c -> b r c d")
        return self.norm(x)

    def check_size(self, x: Tensor) -> None:
        """Raises AssertionError for images of an unsupported size."""
        if self.img_size is None or x.ndim != 4:
            return
        for name, side, native, patch in zip(
            ("height", "width"), x.shape[2:], self.img_size, self.patch_size, strict=True
        ):
            if self.strict_img_size and side != native:
                raise AssertionError(
                    f"Input {name} ({side}) doesn't match model ({native}); create the model with img_size={side} or "
                    "dynamic_img_size=True, or call set_input_size"
                )
            if not self.strict_img_size and not self.dynamic_img_pad and side % patch:
                raise AssertionError(
                    f"Input {name} ({side}) should be divisible by patch size ({patch}), or set dynamic_img_pad=True"
                )

    def resize(self, patch_size: tuple[int, int]) -> None:
        """Resizes the projection to another patch size with `resample_patch_embed`."""
        weight = resample_patch_embed(self.proj.weight.detach(), patch_size).clone()
        self.proj.weight = nn.Parameter(weight, self.proj.weight.requires_grad)
        self.patch_size = self.proj.kernel_size = self.proj.stride = patch_size


class HybridEmbed(layers.PatchEmbed):
    """Patch embedding of a hybrid ViT: the feature map of `backbone`, cut into patches and projected.

    `feature_ratio` is the stride of the backbone. Sizes are not checked, as in timm.
    """

    def __init__(
        self,
        backbone: nn.Module,
        img_size: tuple[int, int],
        patch_size: tuple[int, int],
        *,
        feature_dim: int,
        feature_ratio: int,
        embed_dim: int,
        in_chans: int,
        output_fmt: str | None = None,
    ):
        super().__init__(feature_dim, embed_dim, patch_size, backbone=backbone)
        self.in_chans = in_chans
        self.img_size = img_size
        self.feature_dim = feature_dim
        self.feature_ratio = (feature_ratio, feature_ratio)
        self.output_fmt = output_fmt or "NCHW"
        self.flatten = output_fmt is None

    @property
    def feature_size(self) -> tuple[int, int]:
        """Rows and columns of the backbone's feature map at `img_size`, rounded up."""
        rows, columns = (-(-side // ratio) for side, ratio in zip(self.img_size, self.feature_ratio, strict=True))
        return rows, columns

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches at `img_size`."""
        rows, columns = (side // patch for side, patch in zip(self.feature_size, self.patch_size, strict=True))
        return rows, columns

    @property
    def num_patches(self) -> int:
        """Number of patches at `img_size`."""
        return math.prod(self.grid_size)

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Returns the stride of the patches in pixels."""
        rows, columns = (r * p for r, p in zip(self.feature_ratio, self.patch_size, strict=True))
        return max(rows, columns) if as_scalar else (rows, columns)

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Returns rows and columns of patches of an image of (height, width) pixels."""
        sides = zip(img_size, self.feature_ratio, self.patch_size, strict=True)
        rows, columns = (-(-side // ratio) // patch for side, ratio, patch in sides)
        return rows, columns

    def forward(  # type: ignore[override] - timm's name of the argument
        self, x: Tensor, patch_size: tuple[int, int] | None = None
    ) -> Tensor:
        """Returns the tokens of the images."""
        x = super().forward(x)
        return rearrange(x, "b d r c -> b (r c) d" if self.flatten else "b d r c -> b r c d")
