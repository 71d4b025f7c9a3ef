"""Patches, class token, mask token and positions of the Hugging Face ViT."""

import math

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vitkit.layers import resize_positions
from vitkit.transformers.configuration import ViTConfig, pair


class ViTPatchEmbeddings(nn.Module):
    """Cuts pictures into patches and projects each; a remainder that fills no patch is left out.

    Raises ValueError for a wrong number of channels, in the words of transformers.
    """

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.image_size, self.patch_size = pair(config.image_size), pair(config.patch_size)
        self.num_channels = config.num_channels
        self.grid = self.grid_of(*self.image_size)
        self.num_patches = math.prod(self.grid)
        self.projection = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=self.patch_size, stride=self.patch_size
        )

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches in a picture of that size."""
        return height // self.patch_size[0], width // self.patch_size[1]

    def forward(self, pixel_values: Float[Tensor, "b c height width"]) -> Float[Tensor, "b p d"]:
        """One token a patch, in row-major order."""
        if pixel_values.shape[1] != self.num_channels:
            raise ValueError(
                "Make sure that the channel dimension of the pixel values match with the one set in the configuration."
                f" Expected {self.num_channels} but got {pixel_values.shape[1]}."
            )
        return rearrange(self.projection(pixel_values), "b d r c -> b (r c) d")


class ViTEmbeddings(nn.Module):
    """The class token and the patches with their positions; masked patches show the mask token instead.

    Any image and patch size, square or not, also where the table is interpolated. Raises ValueError for another size
    than the config's without interpolation, and for a mask where the model has no mask token.
    """

    def __init__(self, config: ViTConfig, use_mask_token: bool = False):
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width)) if use_mask_token else None
        self.patch_embeddings = ViTPatchEmbeddings(config)
        self.position_embeddings = nn.Parameter(torch.zeros(1, self.patch_embeddings.num_patches + 1, width))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def interpolate_pos_encoding(
        self, embeddings: Float[Tensor, "b n d"], height: int, width: int
    ) -> Float[Tensor, "1 n d"]:
        """The table for a picture of that size: bicubic without antialias, or as `config.position_resize` says."""
        special, patches = self.position_embeddings[0].tensor_split([1])
        native, grid = self.patch_embeddings.grid, self.patch_embeddings.grid_of(height, width)
        dialect = getattr(self.config, "position_resize", "bicubic")
        return torch.cat([special, resize_positions(patches, native, grid, dialect)])[None]

    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"],
        bool_masked_pos: Shaped[Tensor, "b p"] | None = None,
        interpolate_pos_encoding: bool | None = None,
    ) -> Float[Tensor, "b n d"]:
        """The tokens before the first layer."""
        height, width = pixel_values.shape[2:]
        tokens = self.patch_embeddings(pixel_values)
        if not interpolate_pos_encoding and (height, width) != self.patch_embeddings.image_size:
            rows, columns = self.patch_embeddings.image_size
            raise ValueError(f"Input image size ({height}*{width}) doesn't match model ({rows}*{columns}).")
        if bool_masked_pos is not None:
            tokens = self._masked(tokens, bool_masked_pos)
        tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        positions = self.position_embeddings
        if interpolate_pos_encoding:
            positions = self.interpolate_pos_encoding(tokens, height, width)
        return self.dropout(tokens + positions)

    def _masked(self, tokens: Float[Tensor, "b p d"], bool_masked_pos: Shaped[Tensor, "b p"]) -> Float[Tensor, "b p d"]:
        if self.mask_token is None:
            raise ValueError(
                "bool_masked_pos needs a mask token: make the model with ViTModel(config, use_mask_token=True)"
            )
        if bool_masked_pos.shape != tokens.shape[:2]:
            raise ValueError(
                f"bool_masked_pos is {tuple(bool_masked_pos.shape)}, the patches are {tuple(tokens.shape[:2])}"
            )
        mask = bool_masked_pos[:, :, None].to(tokens.dtype)
        return tokens * (1.0 - mask) + self.mask_token * mask
