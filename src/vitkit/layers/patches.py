"""The patch projection: a picture to a grid of tokens (ViT paper, equation 1)."""

from jaxtyping import Float
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Cuts a picture into patches and projects each to the width: a convolution whose stride is its kernel.

    A remainder at the right and the bottom that fills no patch is left out, as in the original (padding VALID).
    With a `backbone` it is a hybrid's (ViT paper, section 3.1): the patches are cut from the map of `channels` that the
    backbone makes of the picture.
    Raises ValueError for a wrong number of channels and for a picture smaller than one patch.
    """

    def __init__(self, channels: int, width: int, patch_size: tuple[int, int], *, backbone: nn.Module | None = None):
        super().__init__()
        self.backbone = nn.Identity() if backbone is None else backbone
        self.channels = channels
        self.patch_size = patch_size
        self.proj = nn.Conv2d(channels, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b d rows columns"]:
        """One token a patch, still laid out as a picture."""
        picture = self.backbone(images)
        if picture.shape[1] != self.channels:
            raise ValueError(f"the model takes images with {self.channels} channels, these have {picture.shape[1]}")
        self.grid(picture.shape[2], picture.shape[3])
        return self.proj(picture)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches in a picture, or a backbone's map, of `height` x `width`."""
        rows, columns = height // self.patch_size[0], width // self.patch_size[1]
        if rows == 0 or columns == 0:
            patch = f"{self.patch_size[0]}x{self.patch_size[1]}"
            what = "an image" if isinstance(self.backbone, nn.Identity) else "a map of the backbone"
            raise ValueError(f"{what} of {height}x{width} pixels is smaller than one patch of {patch}")
        return rows, columns
