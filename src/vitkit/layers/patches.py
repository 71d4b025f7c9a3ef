"""The patch projection: a picture to a grid of tokens (ViT paper, equation 1), and for patches of other sizes."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


@lru_cache(maxsize=256)
def patch_resize_matrix(old: int, new: int) -> Float[Tensor, "new old"]:
    """pinv(B^T) in float64, where B (new, old) resizes a line of pixels linearly, half-pixel centres, no antialiasing.

    B is that of TensorFlow's bilinear resize, and of `F.interpolate(mode="linear", align_corners=False)`.
    """
    unit = torch.eye(old, dtype=torch.float64)[None]
    return torch.linalg.pinv(F.interpolate(unit, size=new, mode="linear", align_corners=False)[0])


def resize_patches(weight: Float[Tensor, "d c h w"], size: tuple[int, int]) -> Float[Tensor, "d c h2 w2"]:
    """A patch projection made to fit patches of another size (FlexiViT, Beyer et al. 2023, section 3.4: PI-resize).

    For larger patches the tokens of enlarged pictures stay what they were: <B x, resized w> = <x, w>; for smaller ones
    they are as near as can be. As a formula on flattened kernels: `pinv(kron(B_rows, B_columns).T) @ w`, which is the
    pseudo-inverse of each axis in turn. Arithmetic in float64; the same size gives the weights themselves. Resizing
    down loses what resizing up does not bring back, so always start from the weights as they were trained.
    """
    if size == tuple(weight.shape[2:]):
        return weight
    if min(size) < 1:
        raise ValueError(f"a patch of {size[0]}x{size[1]} pixels has none; sizes are at least 1")
    rows, columns = (
        patch_resize_matrix(old, new).to(weight.device) for old, new in zip(weight.shape[2:], size, strict=True)
    )
    # In float64 also because mixed precision leaves that alone.
    return torch.einsum("rp,dcpq,sq->dcrs", rows, weight.double(), columns).to(weight.dtype)


class PatchEmbed(nn.Module):
    """Cuts a picture into patches and projects each to the width: a convolution whose stride is its kernel.

    A remainder at the right and the bottom that fills no patch is left out, as in the original (padding VALID).
    With a `backbone` it is a hybrid's (ViT paper, section 3.1): the patches are cut from the map of `channels` that the
    backbone makes of the picture. `drawn` are sides of patches in pixels of which training draws one for each batch,
    all as likely, from torch's generator on the CPU (FlexiViT, section 3.1): the weights stay those of `patch_size`.
    Raises ValueError for a wrong number of channels and for a picture smaller than one patch.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        patch_size: tuple[int, int],
        *,
        backbone: nn.Module | None = None,
        drawn: tuple[int, ...] = (),
    ):
        super().__init__()
        self.drawn = drawn
        self.backbone = nn.Identity() if backbone is None else backbone
        self.channels = channels
        self.patch_size = patch_size
        self.proj = nn.Conv2d(channels, width, kernel_size=patch_size, stride=patch_size)

    def forward(
        self, images: Float[Tensor, "b c height width"], patch_size: tuple[int, int] | None = None
    ) -> Float[Tensor, "b d rows columns"]:
        """One token a patch, still laid out as a picture; `patch_size` cuts patches of another size this once."""
        if patch_size is None and self.drawn and self.training:
            side = self.drawn[int(torch.randint(len(self.drawn), (), device="cpu"))]
            patch_size = (side, side)
        picture = self.backbone(images)
        if picture.shape[1] != self.channels:
            raise ValueError(f"the model takes images with {self.channels} channels, these have {picture.shape[1]}")
        self.grid(picture.shape[2], picture.shape[3], patch_size)
        if patch_size is None or patch_size == self.patch_size:
            return self.proj(picture)
        self._refuse_a_map()
        return F.conv2d(picture, resize_patches(self.proj.weight, patch_size), self.proj.bias, stride=patch_size)

    def resize(self, patch_size: tuple[int, int]) -> None:
        """Makes another patch size the native one; see `resize_patches`."""
        self._refuse_a_map()
        weight = resize_patches(self.proj.weight.detach(), patch_size).clone()
        self.proj.weight = nn.Parameter(weight, self.proj.weight.requires_grad)
        self.patch_size = self.proj.kernel_size = self.proj.stride = patch_size

    def _refuse_a_map(self) -> None:
        if not isinstance(self.backbone, nn.Identity):
            raise ValueError("the patches of a hybrid are cut from its ResNet's map: their size cannot change")

    def grid(self, height: int, width: int, patch_size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Rows and columns of patches in a picture, or a backbone's map, of `height` x `width`."""
        size = patch_size or self.patch_size
        rows, columns = height // size[0], width // size[1]
        if rows == 0 or columns == 0:
            patch = f"{size[0]}x{size[1]}"
            what = "an image" if isinstance(self.backbone, nn.Identity) else "a map of the backbone"
            raise ValueError(f"{what} of {height}x{width} pixels is smaller than one patch of {patch}")
        return rows, columns
