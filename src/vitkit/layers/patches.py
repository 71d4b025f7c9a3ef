"""Patch embedding (ViT paper, equation 1), which can be resized to other patch sizes."""

from functools import lru_cache
from operator import floordiv, mod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers.channels import adapt_input_convolution, as_input
from vitkit.layers.resize_matrix import is_symbolic


@lru_cache(maxsize=256)
def patch_resize_matrix(old: int, new: int) -> Float[Tensor, "new old"]:
    """Returns pinv(B^T) in float64, where B is the matrix (new, old) that linearly resizes `old` pixels to `new`.

    B is the matrix of `F.interpolate(mode="linear", align_corners=False)` and of TensorFlow's bilinear resize:
    half-pixel centers, no antialiasing.
    """
    unit = torch.eye(old, dtype=torch.float64)[None]
    return torch.linalg.pinv(F.interpolate(unit, size=new, mode="linear", align_corners=False)[0])


def resize_patches(weight: Float[Tensor, "d c h w"], size: tuple[int, int]) -> Float[Tensor, "d c h2 w2"]:
    """Resizes a patch projection to another patch size (FlexiViT, section 3.4: PI-resize).

    Beyer et al. 2023. For larger patches the tokens of enlarged images do not change: <B x, resized w> = <x, w>; for
    smaller patches the squared difference is minimal. On flattened kernels the formula is `pinv(kron(B_rows,
    B_columns).T) @ w`, which is the pseudo-inverse of each axis in turn. The arithmetic is float64; the same size
    returns the weights themselves. Always start from the trained weights: resizing down loses information that resizing
    up does not restore.
    """
    if size == tuple(weight.shape[2:]):
        return weight
    if min(size) < 1:
        raise ValueError(f"patch size {size[0]}x{size[1]} is invalid; both sides must be at least 1")
    rows, columns = (patch_resize_matrix(old, new) for old, new in zip(weight.shape[2:], size, strict=True))
    return resize_kernel(weight, rows, columns)


def resize_kernel(
    weight: Float[Tensor, "d c h w"], rows: Float[Tensor, "h2 h"], columns: Float[Tensor, "w2 w"]
) -> Float[Tensor, "d c h2 w2"]:
    """Multiplies both axes of a kernel by float64 matrices. The result has the dtype of the kernel."""
    # float64 for another reason, too: autocast does not change it.
    rows, columns = rows.to(weight.device), columns.to(weight.device)
    return torch.einsum("rp,dcpq,sq->dcrs", rows, weight.double(), columns).to(weight.dtype)


def check_filled(size: tuple[int, int], patch_size: tuple[int, int], native: tuple[int, int]) -> None:
    """Raises ValueError if an image size is not a multiple of the patch size and differs from `native`.

    The patch embedding would ignore the border of such images. `native` is the image size of the model. Symbolic sizes
    in an exported graph are not checked.
    """
    if is_symbolic(size) or size == native or not any(map(mod, size, patch_size)):
        return
    if 0 in map(floordiv, size, patch_size):
        return  # smaller than a patch: `PatchEmbed.grid` raises the error
    below = "x".join(str(side - side % patch) for side, patch in zip(size, patch_size, strict=True))
    above = "x".join(str(side + -side % patch) for side, patch in zip(size, patch_size, strict=True))
    raise ValueError(
        f"images of {size[0]}x{size[1]} pixels do not consist of patches of {patch_size[0]}x{patch_size[1]} pixels; "
        f"resize them to {below} or {above}, or preprocess them with model.processor(images)"
    )


class PatchEmbed(nn.Module):
    """Patch embedding: a convolution whose stride is its kernel size.

    Pixels at the right and the bottom that do not fill a patch are ignored, as in the original code (padding VALID).
    Models call `check_filled`, which accepts such sizes only if they are the native image size. If `backbone` is given,
    this is the patch embedding of a hybrid model (ViT paper, section 3.1): the patches are cut from the feature map of
    the backbone, which has `channels` channels. With `patch_sizes` (side lengths in pixels), each training batch uses a
    patch size that is sampled uniformly from torch's CPU generator (FlexiViT, section 3.1). The weights keep the size
    `patch_size`. CLIP's patch embedding has no `bias`. Floating-point images are converted to the dtype of the weights.
    Raises ValueError for a wrong number of channels and for an image smaller than one patch.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        patch_size: tuple[int, int],
        *,
        backbone: nn.Module | None = None,
        patch_sizes: tuple[int, ...] = (),
        bias: bool = True,
    ):
        super().__init__()
        self.patch_sizes = patch_sizes
        self.backbone = nn.Identity() if backbone is None else backbone
        self.channels = channels
        self.patch_size = patch_size
        self.proj = nn.Conv2d(channels, width, kernel_size=patch_size, stride=patch_size, bias=bias)

    def forward(
        self, images: Float[Tensor, "b c height width"], patch_size: tuple[int, int] | None = None
    ) -> Float[Tensor, "b d rows columns"]:
        """Returns a feature map with one token per patch. `patch_size` overrides the native patch size."""
        if patch_size is None and self.patch_sizes and self.training:
            side = self.patch_sizes[int(torch.randint(len(self.patch_sizes), (), device="cpu"))]
            patch_size = (side, side)
        if isinstance(self.backbone, nn.Identity):
            x = as_input(images, self.channels, self.proj)
        else:
            x = self.backbone(images)
        self.grid(x.shape[2], x.shape[3], patch_size)
        if patch_size is None or patch_size == self.patch_size:
            return self.proj(x)
        self._check_resizable()
        return F.conv2d(x, resize_patches(self.proj.weight, patch_size), self.proj.bias, stride=patch_size)

    def resize(self, patch_size: tuple[int, int]) -> None:
        """Resizes the projection to another native patch size with `resize_patches`."""
        self._check_resizable()
        weight = resize_patches(self.proj.weight.detach(), patch_size).clone()
        self.proj.weight = nn.Parameter(weight, self.proj.weight.requires_grad)
        self.patch_size = self.proj.kernel_size = self.proj.stride = patch_size

    def adapt_channels(self, channels: int) -> None:
        """Adapts the RGB weights to another number of channels with `channels.adapt_input_weight`."""
        adapt_input_convolution(self.proj, channels)
        self.channels = channels

    def _check_resizable(self) -> None:
        if not isinstance(self.backbone, nn.Identity):
            raise ValueError(
                "the patch size of a hybrid ViT cannot change, because its patches come from the feature "
                "map of its ResNet"
            )

    def check_filled(self, images: Tensor, native: tuple[int, int]) -> None:
        """Raises ValueError for an unsupported image size, see `patches.check_filled`.

        A hybrid accepts any size.
        """
        if isinstance(images, Tensor) and images.ndim == 4 and isinstance(self.backbone, nn.Identity):
            check_filled((images.shape[2], images.shape[3]), self.patch_size, native)

    def grid(self, height: int, width: int, patch_size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Returns the rows and columns of patches in an image or feature map of `height` x `width`."""
        size = patch_size or self.patch_size
        rows, columns = height // size[0], width // size[1]
        if rows == 0 or columns == 0:
            patch = f"{size[0]}x{size[1]}"
            what = "an image" if isinstance(self.backbone, nn.Identity) else "a feature map"
            raise ValueError(f"{what} of {height}x{width} pixels is smaller than one patch of {patch}")
        return rows, columns
