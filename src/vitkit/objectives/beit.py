"""BEiT: naming the visual words of masked blocks (Bao et al. 2021, section 2), with a tokenizer learned on the spot.

The published tokenizer is DALL-E's encoder. Here it is a small one with a codebook as in BEiT v2 (Peng et al. 2022,
section 3.2: cosine similarity, codes as running means), which learns to repaint pictures in the first part of the run
and then stays as it is while the backbone learns to guess its words.
"""

import math
import random
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitkit import parallel
from vitkit.data.loader import Batch
from vitkit.models import Backbone, TokenBackbone
from vitkit.objectives import Objective
from vitkit.objectives.masked import patch_pixels, put_mask, token_backbone

ATTEMPTS = 10  # at placing a block
ASPECT = 0.3  # of a block: between this and its inverse
COMMITMENT = 0.25  # how much the encoder is held to the codes, after van den Oord et al. 2017


@dataclass(frozen=True, kw_only=True)
class Config:
    """How much is `masked` (75 of 196), in blocks of at least `smallest` patches; and the tokenizer.

    `exact` adds or frees single patches until the number is right (BEiT v2); without, a picture may have fewer (BEiT).
    The tokenizer has `codes` words of `code_width` numbers, layers of `hidden` channels, and `tokenizer_share` of the
    run to learn (let the warm-up of the rate last longer); a code keeps `code_decay` of itself in each step.
    """

    masked: float = 75 / 196
    smallest: int = 16
    exact: bool = True
    codes: int = 512
    code_width: int = 32
    hidden: int = 128
    code_decay: float = 0.99
    tokenizer_share: float = 0.1

    def __post_init__(self) -> None:
        """Refuses shares that are none."""
        if not 0.0 < self.masked < 1.0 or not 0.0 < self.tokenizer_share < 1.0 or not 0.0 < self.code_decay < 1.0:
            raise ValueError("masked, tokenizer_share and code_decay lie between 0 and 1")
        if min(self.codes, self.code_width, self.hidden, self.smallest) < 1:
            raise ValueError("codes, code_width, hidden and smallest must be at least 1")


class Tokenizer(nn.Module):
    """Pictures to one word of a codebook for each patch, and words back to pixels."""

    codebook: Tensor
    sums: Tensor
    counts: Tensor

    def __init__(self, config: Config, channels: int, patch_size: tuple[int, int]):
        super().__init__()
        hidden, self.decay = config.hidden, config.code_decay
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, hidden, patch_size, stride=patch_size),
            nn.GELU(),
            nn.Conv2d(hidden, config.code_width, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.code_width, hidden, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(hidden, math.prod(patch_size) * channels, 1),
        )
        self.register_buffer("codebook", F.normalize(torch.randn(config.codes, config.code_width), dim=1))
        self.register_buffer("sums", torch.zeros(config.codes, config.code_width), persistent=False)
        self.register_buffer("counts", torch.zeros(config.codes), persistent=False)

    def vectors(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b r s k"]:
        """What is looked up in the codebook: a direction for each patch."""
        return F.normalize(rearrange(self.encoder(images).float(), "b k r s -> b r s k"), dim=3)

    def words(self, vectors: Float[Tensor, "*b k"]) -> Int[Tensor, "*b"]:
        """The number of the nearest code of each."""
        return (vectors @ self.codebook.T).argmax(dim=-1)

    def repaint(self, vectors: Float[Tensor, "b r s k"]) -> tuple[Float[Tensor, "b p pixels"], Float[Tensor, ""]]:
        """The pixels of each patch from its word, (row, column, channel), and how far vectors are from their codes.

        Gradients pass the codebook as if it were not there; the codes move in `learn`.
        """
        words = self.words(vectors)
        codes = self.codebook[words]
        with torch.no_grad():
            flat = words.flatten()
            self.sums.index_add_(0, flat, vectors.flatten(0, 2))
            self.counts.index_add_(0, flat, torch.ones_like(flat, dtype=self.counts.dtype))
        through = vectors + (codes - vectors).detach()
        painted = self.decoder(rearrange(through, "b r s k -> b k r s"))
        return rearrange(painted, "b n r s -> b (r s) n"), F.mse_loss(vectors, codes)

    @torch.no_grad()
    def learn(self, seed: int) -> None:
        """Moves each code that was used towards the mean of what it stood for; one that was not, next to the most used.

        With `seed` for what is random in that: processes that train together must do the same.
        """
        sums, counts = parallel.mean(self.sums), parallel.mean(self.counts)
        if counts.sum() > 0:
            used = (counts > 0)[:, None]
            moved = torch.lerp(sums / counts.clamp_min(1e-6)[:, None], self.codebook, self.decay)
            # A code that nothing is near would never be used: it joins the busiest, far enough to share its work.
            noise = torch.randn(self.codebook.shape, generator=torch.Generator().manual_seed(seed))
            shaken = self.codebook[counts.argmax()] + 0.1 * noise.to(self.codebook)
            self.codebook.copy_(F.normalize(torch.where(used, moved, torch.lerp(self.codebook, shaken, 0.1)), dim=1))
        self.sums.zero_()
        self.counts.zero_()


class BEiT(Objective):
    """A backbone with a mask token, a linear layer from its tokens to words, and the tokenizer.

    Raises ValueError for a backbone without tokens.
    """

    progress: Tensor

    def __init__(self, config: Config, backbone: Backbone):
        super().__init__()
        self.config = config
        self.backbone = backbone = token_backbone(backbone, "BEiT")
        self.tokenizer = Tokenizer(config, backbone.config.channels, backbone.config.patch_size)
        self.mask_token = nn.Parameter(torch.empty(backbone.width))
        self.lm_head = nn.Linear(backbone.width, config.codes)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.lm_head.weight, std=0.02)
        nn.init.zeros_(self.lm_head.bias)
        self.register_buffer("progress", torch.zeros(()))

    @property
    def encoder(self) -> TokenBackbone:
        """The backbone, which `__init__` has checked."""
        return cast(TokenBackbone, self.backbone)

    @property
    def tokenizer_learns(self) -> bool:
        """Whether the run is in its first part."""
        return self.progress.item() < self.config.tokenizer_share

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """`loss`: first of the repainted pixels, then of the guessed words; `words` is how many are in use, as the
        exponential of the entropy of their shares.
        """
        embedded = self.encoder.embed(batch.images)
        height, width = (side * each for side, each in zip(embedded.grid, self.encoder.config.patch_size, strict=True))
        with torch.set_grad_enabled(self.tokenizer_learns and torch.is_grad_enabled()):
            vectors = self.tokenizer.vectors(batch.images[:, :, :height, :width])
        words = rearrange(self.tokenizer.words(vectors), "b r s -> b (r s)")
        shares = words.flatten().bincount(minlength=self.config.codes) / words.numel()
        in_use = (-torch.xlogy(shares, shares).sum()).exp()
        if self.tokenizer_learns:
            painted, distance = self.tokenizer.repaint(vectors)
            pixels = patch_pixels(batch.images, embedded.grid, self.encoder.config.patch_size)
            target = rearrange(pixels, "b p h w c -> b p (h w c)")
            return {"loss": F.mse_loss(painted.float(), target) + COMMITMENT * distance, "words": in_use}
        masked = block_masks(words.shape[0], embedded.grid, self.config).to(words.device)
        encoded = self.encoder.encode(put_mask(embedded, self.encoder, self.mask_token, masked))
        return {"loss": F.cross_entropy(self.lm_head(encoded.patches[masked]).float(), words[masked]), "words": in_use}

    def after_step(self, progress: float) -> None:
        """The codes move while the tokenizer learns."""
        if self.tokenizer_learns:
            self.tokenizer.learn(round(progress * 2**40))
        self.progress.fill_(progress)


def block_masks(num: int, grid: tuple[int, int], config: Config) -> Bool[Tensor, "b p"]:
    """The masks of that many pictures, each its own; drawn from torch's generator."""
    count = max(1, round(config.masked * grid[0] * grid[1]))
    lot = random.Random(int(torch.randint(2**62, ())))
    masks = []
    for _ in range(num):
        mask = block_mask(grid, count, config.smallest, lot)
        if config.exact:
            flat = mask.reshape(-1)
            surplus = int(flat.sum()) - count
            flat[lot.sample([*np.flatnonzero(flat == (surplus > 0))], abs(surplus))] = surplus < 0
        masks.append(torch.from_numpy(mask.reshape(-1)))
    return torch.stack(masks)


def block_mask(grid: tuple[int, int], count: int, smallest: int, lot: random.Random) -> np.ndarray:
    """Blocks until `count` patches are masked or none fits any more (section 2.3, algorithm 1; the published code).

    A block's area is uniform between `smallest` and what is left to mask, its shape log-uniform between 0.3 and its
    inverse; it is smaller than the grid both ways.
    """
    mask = np.zeros(grid, dtype=bool)
    left = count
    while left > 0:
        for _ in range(ATTEMPTS):
            area = lot.uniform(smallest, left)
            aspect = math.exp(lot.uniform(math.log(ASPECT), -math.log(ASPECT)))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height >= grid[0] or width >= grid[1]:
                continue
            top, start = lot.randint(0, grid[0] - height), lot.randint(0, grid[1] - width)
            block = mask[top : top + height, start : start + width]
            new = block.size - int(block.sum())
            if 0 < new <= left:
                block[:] = True
                left -= new
                break
        else:
            break
    return mask


def build(config: Config, backbone: Backbone) -> BEiT:
    """The objective around a backbone."""
    return BEiT(config, backbone)
