"""The embeddings of the Hugging Face ViT: patches, class token, mask token and positions."""

import math

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vitkit.layers import check_axes, resize_positions
from vitkit.transformers.configuration import ViTConfig, pair


class ViTPatchEmbeddings(nn.Module):
    """Patch embedding: a convolution whose stride equals the patch size.

    Pixels at the right and bottom that fill no patch are ignored. Raises ValueError for a wrong number of channels, and
    for another image size than `config.image_size` unless positions are interpolated.
    """

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.image_size, self.patch_size = pair(config.image_size), pair(config.patch_size)
        self.num_channels = config.num_channels
        self.grid = (self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1])
        self.num_patches = math.prod(self.grid)
        self.projection = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=self.patch_size, stride=self.patch_size
        )

    def forward(
        self, pixel_values: Float[Tensor, "b c height width"], interpolate_pos_encoding: bool | None = False
    ) -> Float[Tensor, "b p d"]:
        """Returns one token per patch, in row-major order."""
        channels, height, width = pixel_values.shape[1:]
        if channels != self.num_channels:
            raise ValueError(
                "Make sure that the channel dimension of the pixel values match with the one set in the configuration."
                f" Expected {self.num_channels} but got {channels}."
            )
        if not interpolate_pos_encoding and (height, width) != self.image_size:
            rows, columns = self.image_size
            raise ValueError(f"Input image size ({height}*{width}) doesn't match model ({rows}*{columns}).")
        return rearrange(self.projection(pixel_values), "b d r c -> b (r c) d")


class ViTEmbeddings(nn.Module):
    """Embeddings: the class token and the patch embeddings, with position embeddings added.

    The mask token replaces masked patches. Image and patch sizes need not be square. Raises ValueError for a mask if
    the model has no mask token.
    """

    def __init__(self, config: ViTConfig, use_mask_token: bool = False):
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width)) if use_mask_token else None
        self.patch_embeddings = ViTPatchEmbeddings(config)
        self.position_embeddings = nn.Parameter(torch.randn(1, self.patch_embeddings.num_patches + 1, width))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.patch_size, self.image_size = config.patch_size, config.image_size
        # Of the positions; a module that replaces the patch embedding need not know them.
        self.grid = self.patch_embeddings.grid

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Returns the number of rows and columns of patches for an image size."""
        rows, columns = pair(self.patch_size)
        return height // rows, width // columns

    def interpolate_pos_encoding(
        self, embeddings: Float[Tensor, "b n d"], height: int, width: int
    ) -> Float[Tensor, "1 n d"]:
        """Resizes the position embeddings with the method `config.position_resize` (default: bicubic)."""
        special, patches = self.position_embeddings[0].tensor_split([1])
        method = getattr(self.config, "position_resize", "bicubic")
        resized = resize_positions(patches, self.grid, self.grid_of(height, width), method)
        return torch.cat([special, resized])[None]

    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"],
        bool_masked_pos: Shaped[Tensor, "b p"] | None = None,
        interpolate_pos_encoding: bool | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Returns the tokens that are the input of the first layer."""
        check_axes(pixel_values)
        # Patch embeddings written for transformers 5 do not have the argument.
        options = {"interpolate_pos_encoding": True} if interpolate_pos_encoding else {}
        tokens = self.patch_embeddings(pixel_values, **options)
        if bool_masked_pos is not None:
            tokens = self._masked(tokens, bool_masked_pos)
        tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        positions = self.position_embeddings
        if interpolate_pos_encoding:
            positions = self.interpolate_pos_encoding(tokens, *pixel_values.shape[2:])
        return self.dropout(tokens + positions)

    def _masked(self, tokens: Float[Tensor, "b p d"], bool_masked_pos: Shaped[Tensor, "b p"]) -> Float[Tensor, "b p d"]:
        if self.mask_token is None:
            raise ValueError(
                "bool_masked_pos needs a mask token: create the model with ViTModel(config, use_mask_token=True)"
            )
        if bool_masked_pos.shape != tokens.shape[:2]:
            raise ValueError(
                f"bool_masked_pos has shape {tuple(bool_masked_pos.shape)}; expected {tuple(tokens.shape[:2])}"
            )
        mask = bool_masked_pos[:, :, None].to(tokens.dtype)
        return tokens * (1.0 - mask) + self.mask_token * mask
