"""Masked patch prediction: prediction of the colors of corrupted patches (ViT paper, appendix B.1.2)."""

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitkit.data.loader import Batch
from vitkit.layers import Features
from vitkit.models import Backbone, TokenBackbone
from vitkit.objectives import Objective

NEEDS_LABELS = False

SMALL = 4  # rows and columns of the downsampled patch


@dataclass(frozen=True, kw_only=True)
class Config:
    """Config of masked patch prediction: how patches are corrupted, and which colors are predicted.

    `corruption_ratio` is the fraction of patches of each image that are corrupted. A fraction `replaced` of those
    is replaced by the [mask] embedding, a fraction `swapped` by the embedding of another patch; the others do not
    change. `target` is the mean color of the patch or the colors of the patch downsampled to 4x4, with 2^`bits`
    values per channel (512 classes for 3 bits), or the pixels with an L2 loss. `mean` and `std` are those of the
    processor, one value per channel: colors are quantized in [0, 1].
    """

    target: Literal["mean_color", "small_colors", "pixels"] = "mean_color"
    corruption_ratio: float = 0.5
    replaced: float = 0.8
    swapped: float = 0.1
    bits: int = 3
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        """Raises ValueError if a value is out of range."""
        if not 0.0 < self.corruption_ratio <= 1.0:
            raise ValueError(f"corruption_ratio is {self.corruption_ratio}; it must be above 0 and at most 1")
        if min(self.replaced, self.swapped) < 0.0 or self.replaced + self.swapped > 1.0:
            raise ValueError(f"replaced is {self.replaced} and swapped is {self.swapped}; their sum must be at most 1")
        if not 1 <= self.bits <= 4:
            raise ValueError(f"bits is {self.bits}; it must be between 1 and 4")


class Masked(Objective):
    """Masked patch prediction objective: backbone, mask token, and linear layer that predicts colors.

    Raises ValueError for a backbone without tokens.
    """

    def __init__(self, config: Config, backbone: Backbone):
        super().__init__()
        self.config = config
        self.backbone = backbone = token_backbone(backbone, "masked patch prediction")
        channels = backbone.config.channels
        if not len(config.mean) == len(config.std) == channels:
            given = f"mean has {len(config.mean)} values and std {len(config.std)}"
            raise ValueError(f"{given}, but the model takes {channels} channels")
        rows, columns = backbone.config.patch_size
        colors = 2 ** (config.bits * channels)
        outputs = {"mean_color": colors, "small_colors": SMALL**2 * colors, "pixels": rows * columns * channels}
        self.mask_token = nn.Parameter(torch.empty(backbone.width))
        self.predict = nn.Linear(backbone.width, outputs[config.target])
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.predict.weight, std=0.02)
        nn.init.zeros_(self.predict.bias)

    def input_parameters(self) -> tuple[nn.Parameter, ...]:
        """Returns the mask token, which replaces masked patches before the first block."""
        return (self.mask_token,)

    @property
    def encoder(self) -> TokenBackbone:
        """The backbone, as a `TokenBackbone`."""
        return cast(TokenBackbone, self.backbone)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Returns `loss` and `accuracy` of the colors predicted for the corrupted patches."""
        embedded = self.encoder.embed(batch.images)
        chosen = random_mask(batch.images.shape[0], embedded.patches.shape[1], self.config.corruption_ratio)
        encoded = self.encoder.encode(self.corrupt(embedded, chosen))
        predicted = self.predict(encoded.patches[chosen.to(batch.images.device)]).float()
        pixels = patch_pixels(batch.images, embedded.grid, self.encoder.config.patch_size)[chosen]
        if self.config.target == "pixels":
            return {"loss": F.mse_loss(predicted, rearrange(pixels, "n h w c -> n (h w c)"))}
        target = self.colors(pixels)
        logits = rearrange(predicted, "n (cells colors) -> (n cells) colors", cells=target.shape[1])
        target = target.flatten()
        return {"loss": F.cross_entropy(logits, target), "accuracy": (logits.argmax(dim=1) == target).float().mean()}

    def corrupt(self, embedded: Features, chosen: Bool[Tensor, "b p"]) -> Features:
        """Replaces each chosen patch, at random, with the mask token or another patch, or keeps the patch.

        Position embeddings do not change: a patch embedding is copied without its position. (This is exact without
        dropout on the embedding.)
        """
        sample = torch.rand(chosen.shape)
        replaced = chosen & (sample < self.config.replaced)
        swapped = chosen & ~replaced & (sample < self.config.replaced + self.config.swapped)
        b, p = chosen.shape
        # Any other patch.
        others = (torch.arange(p) + torch.randint(1, max(p, 2), (b, p))) % p
        device, width = embedded.tokens.device, embedded.tokens.shape[2]
        positions = patch_positions(self.encoder, embedded)
        moved = (embedded.patches - positions).gather(1, repeat(others.to(device), "b p -> b p d", d=width))
        patches = torch.where(swapped.to(device)[..., None], moved + positions, embedded.patches)
        mixed = embedded.with_tokens(torch.cat([embedded.special, patches], dim=1))
        return apply_mask(mixed, self.encoder, self.mask_token, replaced)

    def colors(self, pixels: Float[Tensor, "n h w c"]) -> Int[Tensor, "n cells"]:
        """Returns the color class of each patch, or of each cell of its 4x4 grid. With 3 bits: R + 8 G + 64 B."""
        mean, std = pixels.new_tensor(self.config.mean), pixels.new_tensor(self.config.std)
        patches = rearrange(pixels * std + mean, "n h w c -> n c h w")
        small = F.adaptive_avg_pool2d(patches, 1 if self.config.target == "mean_color" else SMALL)
        values = (small * 2**self.config.bits).floor().long().clamp(0, 2**self.config.bits - 1)
        weights = 2 ** (self.config.bits * torch.arange(values.shape[1], device=values.device))
        return rearrange((values * weights[:, None, None]).sum(dim=1), "n h w -> n (h w)")


def token_backbone(backbone: Backbone, what: str) -> TokenBackbone:
    """Returns `backbone` as a `TokenBackbone`. Raises ValueError for other models, or for several patch sizes."""
    if not isinstance(backbone, TokenBackbone):
        raise ValueError(
            f"{what} masks tokens before the first block, but {type(backbone).__name__} has no tokens; use a Vision "
            "Transformer"
        )
    if getattr(backbone.config, "patch_sizes", ()):
        raise ValueError(f"{what} predicts patches of one size and does not support patch_sizes; set patch_sizes to ()")
    return backbone


def random_mask(num: int, patches: int, ratio: float) -> Bool[Tensor, "b p"]:
    """Samples a random mask on the CPU with the given fraction of masked patches. At least one patch is masked."""
    count = max(1, round(ratio * patches))
    return torch.rand(num, patches).argsort(dim=1).argsort(dim=1) < count


def patch_positions(backbone: TokenBackbone, embedded: Features) -> Float[Tensor, "1 p d"]:
    """Returns the position embeddings that `embed` adds to the patches, or zeros if there are none."""
    table = backbone.positions(embedded.grid)
    num = embedded.patches.shape[1]
    return embedded.tokens.new_zeros(1, num, embedded.tokens.shape[2]) if table is None else table[:, -num:]


def apply_mask(
    embedded: Features, backbone: TokenBackbone, token: Float[Tensor, " d"], masked: Bool[Tensor, "b p"]
) -> Features:
    """Replaces masked patches with the mask token plus the position embeddings of these patches."""
    mask_tokens = token.to(embedded.tokens.dtype) + patch_positions(backbone, embedded)
    patches = torch.where(masked.to(mask_tokens.device)[..., None], mask_tokens, embedded.patches)
    return embedded.with_tokens(torch.cat([embedded.special, patches], dim=1))


def patch_pixels(
    images: Float[Tensor, "b c height width"], grid: tuple[int, int], patch_size: tuple[int, int]
) -> Float[Tensor, "b p h w c"]:
    """Returns the pixels of each patch in row-major order. Pixels outside the grid of patches are cropped.

    Raises ValueError for images smaller than the grid of patches (a hybrid rounds the size of its map up).
    """
    height, width = grid[0] * patch_size[0], grid[1] * patch_size[1]
    if images.shape[2] < height or images.shape[3] < width:
        size, patch = f"{images.shape[2]}x{images.shape[3]}", f"{patch_size[0]}x{patch_size[1]}"
        raise ValueError(f"images of {size} pixels are smaller than {grid[0]}x{grid[1]} patches of {patch} pixels")
    return rearrange(images[:, :, :height, :width], "b c (r h) (s w) -> b (r s) h w c", r=grid[0], s=grid[1])


def build(config: Config, backbone: Backbone) -> Masked:
    """Builds the masked patch prediction objective for a backbone."""
    return Masked(config, backbone)
