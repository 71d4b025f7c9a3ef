"""Masked patch prediction: guessing the colours of corrupted patches (ViT paper, appendix B.1.2)."""

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

SMALL = 4  # rows and columns of the down-sized patch


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is corrupted and what is guessed.

    Of every picture's patches the share `corrupted` is chosen; `replaced` of those become the [mask] embedding,
    `swapped` the embedding of another patch, the rest stays as it is. `target` is the mean colour of the patch, the
    colours of the patch down-sized to 4x4, each one of 512 classes with `bits` = 3, or the pixels themselves by least
    squares. `mean` and `std` are those of the processor, one number a channel: colours are counted in 0..1.
    """

    target: Literal["mean_colour", "small_colours", "pixels"] = "mean_colour"
    corrupted: float = 0.5
    replaced: float = 0.8
    swapped: float = 0.1
    bits: int = 3
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        """Refuses shares that are none."""
        if not 0.0 < self.corrupted <= 1.0:
            raise ValueError(f"corrupted is {self.corrupted}; it must be above 0 and at most 1")
        if min(self.replaced, self.swapped) < 0.0 or self.replaced + self.swapped > 1.0:
            raise ValueError(f"replaced is {self.replaced} and swapped {self.swapped}; together they are at most 1")
        if not 1 <= self.bits <= 4:
            raise ValueError(f"bits is {self.bits}; a colour channel has 1 to 4 here")


class Masked(Objective):
    """A backbone with a [mask] embedding and a linear layer that reads what it made of the corrupted patches.

    Raises ValueError for a backbone without tokens to corrupt.
    """

    def __init__(self, config: Config, backbone: Backbone):
        super().__init__()
        self.config = config
        self.backbone = backbone = token_backbone(backbone, "masked patch prediction")
        channels = backbone.config.channels
        if not len(config.mean) == len(config.std) == channels:
            given = f"mean has {len(config.mean)} numbers and std {len(config.std)}"
            raise ValueError(f"{given}, but the model takes {channels} channels")
        rows, columns = backbone.config.patch_size
        colours = 2 ** (config.bits * channels)
        outputs = {"mean_colour": colours, "small_colours": SMALL**2 * colours, "pixels": rows * columns * channels}
        self.mask_token = nn.Parameter(torch.empty(backbone.width))
        self.predict = nn.Linear(backbone.width, outputs[config.target])
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.predict.weight, std=0.02)
        nn.init.zeros_(self.predict.bias)

    def input_parameters(self) -> tuple[nn.Parameter, ...]:
        """The mask token: it replaces patches before the first block."""
        return (self.mask_token,)

    @property
    def encoder(self) -> TokenBackbone:
        """The backbone, which `__init__` has checked."""
        return cast(TokenBackbone, self.backbone)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """`loss` over the corrupted patches, and `accuracy`: how many of their colours are guessed."""
        embedded = self.encoder.embed(batch.images)
        chosen = random_mask(batch.images.shape[0], embedded.patches.shape[1], self.config.corrupted)
        encoded = self.encoder.encode(self.corrupt(embedded, chosen))
        guess = self.predict(encoded.patches[chosen.to(batch.images.device)]).float()
        pixels = patch_pixels(batch.images, embedded.grid, self.encoder.config.patch_size)[chosen]
        if self.config.target == "pixels":
            return {"loss": F.mse_loss(guess, rearrange(pixels, "n h w c -> n (h w c)"))}
        target = self.colours(pixels)
        guess = rearrange(guess, "n (places colours) -> (n places) colours", places=target.shape[1])
        target = target.flatten()
        return {"loss": F.cross_entropy(guess, target), "accuracy": (guess.argmax(dim=1) == target).float().mean()}

    def corrupt(self, embedded: Features, chosen: Bool[Tensor, "b p"]) -> Features:
        """The chosen patches replaced, swapped for another of the same picture, or left.

        Positions stay where they are: an embedding is moved without its own. (Exact without dropout on the embedding.)
        """
        lot = torch.rand(chosen.shape)
        replaced = chosen & (lot < self.config.replaced)
        swapped = chosen & ~replaced & (lot < self.config.replaced + self.config.swapped)
        b, p = chosen.shape
        # Another one: any but itself.
        others = (torch.arange(p) + torch.randint(1, max(p, 2), (b, p))) % p
        device, width = embedded.tokens.device, embedded.tokens.shape[2]
        positions = patch_positions(self.encoder, embedded)
        moved = (embedded.patches - positions).gather(1, repeat(others.to(device), "b p -> b p d", d=width))
        patches = torch.where(swapped.to(device)[..., None], moved + positions, embedded.patches)
        mixed = embedded.with_tokens(torch.cat([embedded.special, patches], dim=1))
        return put_mask(mixed, self.encoder, self.mask_token, replaced)

    def colours(self, pixels: Float[Tensor, "n h w c"]) -> Int[Tensor, "n places"]:
        """The class of each patch's mean colour, or of each of its 4x4 mean colours: R + 8 G + 64 B, levels 0..7."""
        mean, std = pixels.new_tensor(self.config.mean), pixels.new_tensor(self.config.std)
        pictures = rearrange(pixels * std + mean, "n h w c -> n c h w")
        small = F.adaptive_avg_pool2d(pictures, 1 if self.config.target == "mean_colour" else SMALL)
        levels = (small * 2**self.config.bits).floor().long().clamp(0, 2**self.config.bits - 1)
        weights = 2 ** (self.config.bits * torch.arange(levels.shape[1], device=levels.device))
        return rearrange((levels * weights[:, None, None]).sum(dim=1), "n h w -> n (h w)")


def token_backbone(backbone: Backbone, what: str) -> TokenBackbone:
    """The backbone, or ValueError where it is not tokens between an embedding and an encoder."""
    if not isinstance(backbone, TokenBackbone):
        raise ValueError(f"{what} changes tokens before the encoder; {type(backbone).__name__} has only a map")
    if getattr(backbone.config, "patch_sizes", ()):
        raise ValueError(f"{what} guesses patches of one size, but the model draws from patch_sizes: set it to ()")
    return backbone


def random_mask(num: int, patches: int, share: float) -> Bool[Tensor, "b p"]:
    """That share of each picture's patches, rounded, but at least one; drawn on the CPU, the same on every device."""
    count = max(1, round(share * patches))
    return torch.rand(num, patches).argsort(dim=1).argsort(dim=1) < count


def patch_positions(backbone: TokenBackbone, embedded: Features) -> Float[Tensor, "1 p d"]:
    """What `embed` added to the patches for where they are; zeros for a backbone that adds nothing."""
    table = backbone.positions(embedded.grid)
    num = embedded.patches.shape[1]
    return embedded.tokens.new_zeros(1, num, embedded.tokens.shape[2]) if table is None else table[:, -num:]


def put_mask(
    embedded: Features, backbone: TokenBackbone, token: Float[Tensor, " d"], masked: Bool[Tensor, "b p"]
) -> Features:
    """The mask token, with the position of its place, for each masked patch: the encoder must know where it guesses."""
    known = token.to(embedded.tokens.dtype) + patch_positions(backbone, embedded)
    patches = torch.where(masked.to(known.device)[..., None], known, embedded.patches)
    return embedded.with_tokens(torch.cat([embedded.special, patches], dim=1))


def patch_pixels(
    images: Float[Tensor, "b c height width"], grid: tuple[int, int], patch_size: tuple[int, int]
) -> Float[Tensor, "b p h w c"]:
    """The pixels of each patch, row by row; what is left over at the right and the bottom fills no patch.

    Raises ValueError for pictures that are smaller than their patches (a hybrid rounds its map up).
    """
    height, width = grid[0] * patch_size[0], grid[1] * patch_size[1]
    if images.shape[2] < height or images.shape[3] < width:
        raise ValueError(f"pictures of {images.shape[2]}x{images.shape[3]} do not fill {grid[0]}x{grid[1]} patches")
    return rearrange(images[:, :, :height, :width], "b c (r h) (s w) -> b (r s) h w c", r=grid[0], s=grid[1])


def build(config: Config, backbone: Backbone) -> Masked:
    """The objective around a backbone."""
    return Masked(config, backbone)
