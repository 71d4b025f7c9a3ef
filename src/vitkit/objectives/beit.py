"""BEiT: naming the visual words of masked blocks (Bao et al. 2021, section 2).

The published tokenizer is DALL-E's encoder, for those who have its file. Without it, it is a small one with a codebook
as in BEiT v2 (Peng et al. 2022, section 3.2: cosine similarity, codes as running means), which learns to repaint
pictures in the first part of the run and then stays as it is while the backbone learns to guess its words.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitkit import distributed
from vitkit.checkpoints.pretraining import TOKEN, Layout, load_dalle_encoder
from vitkit.checkpoints.table import Rule, Table
from vitkit.data.augment.masks import block_masks
from vitkit.data.loader import Batch
from vitkit.data.processor import HALF
from vitkit.layers.dalle import STRIDE, WordEncoder
from vitkit.models import Backbone, TokenBackbone
from vitkit.objectives import Objective, keep_by_digest, keep_progress, load_into, set_progress
from vitkit.objectives.masked import patch_pixels, put_mask, token_backbone

COMMITMENT = 0.25  # how much the encoder is held to the codes, after van den Oord et al. 2017

LAYOUTS = (
    Layout(
        Table((Rule("mask_token", ("mask_token",), TOKEN), Rule("lm_head.{leaf}", ("lm_head.{leaf}",)))),
        aliases=((r"^(?:beit\.)?embeddings\.mask_token$", "mask_token"),),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """How much is `masked` (75 of 196), in blocks of at least `smallest` patches; and the tokenizer.

    `exact` adds or frees single patches until the number is right (BEiT v2); without, a picture may have fewer (BEiT).
    The tokenizer has `codes` words of `code_width` numbers, layers of `hidden` channels, and `tokenizer_share` of the
    run to learn (let the warm-up of the rate last longer); a code keeps `code_decay` of itself in each step.

    `tokenizer` is the file of DALL-E's encoder (encoder.pkl, or its tensors in any container) to be taken instead:
    `codes` are then its 8192, nothing of it learns, and `mean` and `std` are those of the processor. `start` is a
    checkpoint whose mask token and head these go on from: BEiT's own, or transformers' BeitForMaskedImageModeling.
    """

    masked: float = 75 / 196
    smallest: int = 16
    exact: bool = True
    codes: int = 512
    code_width: int = 32
    hidden: int = 128
    code_decay: float = 0.99
    tokenizer_share: float = 0.1
    tokenizer: str = ""
    start: str = ""
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF

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
        sums, counts = distributed.mean(self.sums), distributed.mean(self.counts)
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
    """A backbone with a mask token, a linear layer from its tokens to words, and a tokenizer: DALL-E's or a new one.

    Raises ValueError for a backbone without tokens, and for one of other channels or words than DALL-E's.
    """

    def __init__(self, config: Config, backbone: Backbone, published: WordEncoder | None = None):
        super().__init__()
        self.config = config
        self.backbone = backbone = token_backbone(backbone, "BEiT")
        channels = backbone.config.channels
        if published is not None and (published.words, channels) != (config.codes, 3):
            given = f"codes is {config.codes} and the model takes {channels} channels"
            raise ValueError(f"{given}; DALL-E's tokenizer has {published.words} words for pictures of 3")
        self.published = published
        if published is not None:
            keep_by_digest(self, "published")
        self.tokenizer = Tokenizer(config, channels, backbone.config.patch_size) if published is None else None
        self.mask_token = nn.Parameter(torch.empty(backbone.width))
        self.lm_head = nn.Linear(backbone.width, config.codes)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.lm_head.weight, std=0.02)
        nn.init.zeros_(self.lm_head.bias)
        keep_progress(self)

    def input_parameters(self) -> tuple[nn.Parameter, ...]:
        """The mask token: it replaces patches before the first block."""
        return (self.mask_token,)

    @property
    def encoder(self) -> TokenBackbone:
        """The backbone, which `__init__` has checked."""
        return cast(TokenBackbone, self.backbone)

    @property
    def tokenizer_learns(self) -> bool:
        """Whether the run is in its first part."""
        return self.tokenizer is not None and self.done < self.config.tokenizer_share

    @property
    def phase(self) -> int:
        """0 while the tokenizer learns, then 1."""
        return 0 if self.tokenizer_learns else 1

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """`loss`: first of the repainted pixels, then of the guessed words; `words` is how many are in use, as the
        exponential of the entropy of their shares, and `accuracy` how many are guessed.
        """
        if self.tokenizer is not None and self.tokenizer_learns:
            return self.repaint(batch.images, self.tokenizer)
        embedded = self.encoder.embed(batch.images)
        words = rearrange(self.words(batch.images, embedded.grid), "b r s -> b (r s)")
        share, smallest, exact = self.config.masked, self.config.smallest, self.config.exact
        masked = block_masks(words.shape[0], embedded.grid, share, smallest, exact=exact).to(words.device)
        encoded = self.encoder.encode(put_mask(embedded, self.encoder, self.mask_token, masked))
        guess, truth = self.lm_head(encoded.patches[masked]).float(), words[masked]
        hits = (guess.argmax(dim=1) == truth).float().mean()
        return {"loss": F.cross_entropy(guess, truth), "words": self.in_use(words), "accuracy": hits}

    def repaint(self, images: Float[Tensor, "b c height width"], tokenizer: Tokenizer) -> dict[str, Float[Tensor, ""]]:
        """The scalars of a step in which the tokenizer learns."""
        patch = self.encoder.config.patch_size
        grid = (images.shape[2] // patch[0], images.shape[3] // patch[1])
        vectors = tokenizer.vectors(images[:, :, : grid[0] * patch[0], : grid[1] * patch[1]])
        painted, distance = tokenizer.repaint(vectors)
        target = rearrange(patch_pixels(images, grid, patch), "b p h w c -> b p (h w c)")
        loss = F.mse_loss(painted.float(), target) + COMMITMENT * distance
        return {"loss": loss, "words": self.in_use(tokenizer.words(vectors))}

    @torch.no_grad()
    def words(self, images: Float[Tensor, "b c height width"], grid: tuple[int, int]) -> Int[Tensor, "b r s"]:
        """The word of each patch; DALL-E reads pictures so small that a word is a patch (112 pixels of 224)."""
        if self.published is None:
            patch = self.encoder.config.patch_size
            tokenizer = cast(Tokenizer, self.tokenizer)
            return tokenizer.words(tokenizer.vectors(images[:, :, : grid[0] * patch[0], : grid[1] * patch[1]]))
        mean, std = (images.new_tensor(each)[:, None, None] for each in (self.config.mean, self.config.std))
        size = [side * STRIDE for side in grid]
        # The original shrinks the 8-bit picture with Lanczos' filter, which torch has not.
        small = F.interpolate((images * std + mean).float(), size=size, mode="bicubic", antialias=True)
        return self.published.read(small.clamp(0, 1))

    def in_use(self, words: Int[Tensor, "*b"]) -> Float[Tensor, ""]:
        """How many words are in use."""
        shares = words.flatten().bincount(minlength=self.config.codes) / words.numel()
        return (-torch.xlogy(shares, shares).sum()).exp()

    def after_step(self, progress: float) -> None:
        """The codes move while the tokenizer learns."""
        if self.tokenizer is not None and self.tokenizer_learns:
            self.tokenizer.learn(round(progress * 2**40))
        set_progress(self, progress)


def build(config: Config, backbone: Backbone) -> BEiT:
    """The objective around a backbone, its tokenizer and its own parts as the config says."""
    objective = BEiT(config, backbone, load_dalle_encoder(config.tokenizer) if config.tokenizer else None)
    if config.start:
        parts = ("mask_token", "lm_head.weight", "lm_head.bias")
        load_into(objective, config.start, parts, LAYOUTS, what="BEiT's mask token and head of words")
    return objective
