"""Masked autoencoders (MAE): presets of the encoder, which is a plain ViT, and the decoder for pre-training.

He et al. 2021, "Masked Autoencoders Are Scalable Vision Learners", section 3. Masking and loss belong to the objective.
The encoder's fixed sine-cosine positions are stored as a trainable table, which fine-tuning trains.
"""

import math

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitkit.layers import encoder_blocks, init_mae, layer_norm, resize_positions, sincos2d
from vitkit.models import vit

Config = vit.Config
Model = vit.ViT


class MAEDecoder(nn.Module):
    """Decoder of MAE, which predicts the pixels of every patch from the encoded visible patches (MAE, section 3).

    The fixed sine-cosine positions are a parameter without gradient. `grid` is the grid at the native image size.
    """

    def __init__(
        self,
        width: int,
        grid: tuple[int, int],
        *,
        patch_size: tuple[int, int] = (16, 16),
        channels: int = 3,
        decoder_width: int = 512,
        depth: int = 8,
        num_heads: int = 16,
        norm_eps: float = 1e-6,
    ):
        super().__init__()
        self.grid = grid
        self.decoder_embed = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 1 + math.prod(grid), decoder_width), requires_grad=False)
        self.decoder_blocks = encoder_blocks(
            depth, width=decoder_width, num_heads=num_heads, mlp_width=4 * decoder_width, norm_eps=norm_eps
        )
        self.decoder_norm = layer_norm(decoder_width, norm_eps)
        self.decoder_pred = nn.Linear(decoder_width, math.prod(patch_size) * channels)

    def forward(
        self, tokens: Float[Tensor, "b m d"], restore: Int[Tensor, "b p"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "b p pixels"]:
        """Returns the predicted pixels of all patches, in the order (row, column, channel) within a patch.

        `tokens` are the encoder's outputs: the class token, then the visible patches in any order. `restore` is, for
        each patch in row-major order, its index among the visible patches followed by the masked ones. `grid` defaults
        to the native grid; for other grids the position table is resized.
        """
        grid = grid or self.grid
        if restore.shape[1] != math.prod(grid):
            raise ValueError(
                f"restore has {restore.shape[1]} indices, but the grid {grid} has {math.prod(grid)} patches"
            )
        x = self.decoder_embed(tokens)
        masked = self.mask_token.expand(x.shape[0], restore.shape[1] + 1 - x.shape[1], -1)
        patches = torch.cat([x[:, 1:], masked.to(x.dtype)], dim=1)
        patches = patches.gather(1, repeat(restore, "b p -> b p d", d=x.shape[2]))
        positions = resize_positions(self.decoder_pos_embed[0], self.grid, grid, "bicubic", special=1)
        x = torch.cat([x[:, :1], patches], dim=1) + positions
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]

    def init_weights(self) -> None:
        """Initializes weights (Xavier), mask token (normal) and the sine-cosine position embedding."""
        init_mae(self)
        table = sincos2d(self.grid, self.decoder_pos_embed.shape[2], endpoint=False)
        self.decoder_pos_embed.data.copy_(F.pad(table, (0, 0, 1, 0)))


def _preset(size: str, patch: int) -> vit.Config:
    width, depth, num_heads, mlp_width = vit.SIZES[size]
    return Config(
        patch_size=(patch, patch),
        width=width,
        depth=depth,
        num_heads=num_heads,
        mlp_width=mlp_width,
        num_classes=0,
        position_resize="bicubic",
        init="mae",
    )


# As in fine-tuning: the mean of the patches, then the norm.
TINY = Config(
    image_size=(32, 32),
    patch_size=(8, 8),
    width=32,
    depth=2,
    num_heads=2,
    mlp_width=64,
    num_classes=5,
    pool="gap",
    norm="pooled",
    position_resize="bicubic",
    init="mae",
)
PRESETS = {"mae-b/16": _preset("b", 16), "mae-l/16": _preset("l", 16), "mae-h/14": _preset("h", 14)}
