"""BEiT: prediction of the visual tokens of masked patches (Bao et al. 2021, section 2).

The published tokenizer is DALL-E's encoder, which needs its file. The default is a small tokenizer with a codebook as
in BEiT v2 (Peng et al. 2022, section 3.2: cosine similarity, codes as running means). It is trained to reconstruct
images in the first phase of the run, and then frozen while the backbone is trained to predict its tokens.
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
from vitkit.layers.dalle import STRIDE, DalleEncoder
from vitkit.models import Backbone, TokenBackbone
from vitkit.objectives import Objective, add_progress, load_into, save_digest_only, set_progress
from vitkit.objectives.masked import apply_mask, patch_pixels, token_backbone

NEEDS_LABELS = False

COMMITMENT = 0.25  # weight of the commitment loss (van den Oord et al. 2017)

LAYOUTS = (
    Layout(
        Table((Rule("mask_token", ("mask_token",), TOKEN), Rule("lm_head.{leaf}", ("lm_head.{leaf}",)))),
        aliases=((r"^(?:beit\.)?embeddings\.mask_token$", "mask_token"),),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Config of BEiT pre-training: settings of the patch mask and of the image tokenizer.

    `mask_ratio` is the fraction of masked patches (75 of 196), in blocks of at least `smallest` patches. With `exact`
    every image has exactly this number, by adding or removing single patches (BEiT v2); without it an image can have
    fewer (BEiT). The trained tokenizer has a codebook of `codes` vectors of width `code_width` and layers of `hidden`
    channels. It is trained in the first `tokenizer_fraction` of the run; the learning rate's warm-up should be longer
    than that. `code_decay` is the decay of the running means of the codes.

    `tokenizer` is the file of DALL-E's encoder (encoder.pkl, or its tensors in any container), which replaces the
    trained tokenizer: `codes` must then be 8192, and `mean` and `std` those of the processor. `start` is a checkpoint
    from which mask token and head are loaded: BEiT's own, or transformers' BeitForMaskedImageModeling.
    """

    mask_ratio: float = 75 / 196
    smallest: int = 16
    exact: bool = True
    codes: int = 512
    code_width: int = 32
    hidden: int = 128
    code_decay: float = 0.99
    tokenizer_fraction: float = 0.1
    tokenizer: str = ""
    start: str = ""
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF

    def __post_init__(self) -> None:
        """Raises ValueError if a fraction or size is out of range."""
        for name in ("mask_ratio", "tokenizer_fraction", "code_decay"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0 and below 1")
        if min(self.codes, self.code_width, self.hidden, self.smallest) < 1:
            given = f"codes is {self.codes}, code_width is {self.code_width}, hidden is {self.hidden}"
            raise ValueError(f"{given} and smallest is {self.smallest}; all must be at least 1")


class Tokenizer(nn.Module):
    """Image tokenizer with a codebook. The encoder maps patches to codes, and the decoder maps codes to pixels."""

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
        """Returns the output of the encoder: one vector per patch, normalized to unit length."""
        return F.normalize(rearrange(self.encoder(images).float(), "b k r s -> b r s k"), dim=3)

    def nearest_codes(self, vectors: Float[Tensor, "*b k"]) -> Int[Tensor, "*b"]:
        """Returns the index of the nearest code of each vector."""
        return (vectors @ self.codebook.T).argmax(dim=-1)

    def reconstruct(self, vectors: Float[Tensor, "b r s k"]) -> tuple[Float[Tensor, "b p pixels"], Float[Tensor, ""]]:
        """Returns the decoded pixels of each patch, and the mean squared distance between vectors and nearest codes.

        The pixels of a patch are in the order (row, column, channel). The gradient is passed straight through the
        codebook (straight-through estimator); `update_codebook` updates the codes.
        """
        indices = self.nearest_codes(vectors)
        codes = self.codebook[indices]
        with torch.no_grad():
            flat = indices.flatten()
            self.sums.index_add_(0, flat, vectors.flatten(0, 2))
            self.counts.index_add_(0, flat, torch.ones_like(flat, dtype=self.counts.dtype))
        through = vectors + (codes - vectors).detach()
        pixels = self.decoder(rearrange(through, "b r s k -> b k r s"))
        return rearrange(pixels, "b n r s -> b (r s) n"), F.mse_loss(vectors, codes)

    @torch.no_grad()
    def update_codebook(self, seed: int) -> None:
        """Moves used codes toward the mean of the vectors assigned to them, and unused codes toward the most used code.

        `seed` is for the noise on unused codes; it must be the same in all processes of the run.
        """
        sums, counts = distributed.mean(self.sums), distributed.mean(self.counts)
        if counts.sum() > 0:
            used = (counts > 0)[:, None]
            updated = torch.lerp(sums / counts.clamp_min(1e-6)[:, None], self.codebook, self.decay)
            # A code far from all vectors is never used: it moves near the most used code, to take some of its vectors.
            noise = torch.randn(self.codebook.shape, generator=torch.Generator().manual_seed(seed))
            target = self.codebook[counts.argmax()] + 0.1 * noise.to(self.codebook)
            self.codebook.copy_(F.normalize(torch.where(used, updated, torch.lerp(self.codebook, target, 0.1)), dim=1))
        self.sums.zero_()
        self.counts.zero_()


class BEiT(Objective):
    """BEiT pre-training objective: backbone, mask token, linear head that predicts visual tokens, and tokenizer.

    `published` is DALL-E's encoder; None trains a new tokenizer. Raises ValueError for a backbone without tokens, and
    for a number of channels or codes that differs from that of `published`.
    """

    def __init__(self, config: Config, backbone: Backbone, published: DalleEncoder | None = None):
        super().__init__()
        self.config = config
        self.backbone = backbone = token_backbone(backbone, "BEiT")
        channels = backbone.config.channels
        if published is not None and (published.vocabulary, channels) != (config.codes, 3):
            given = f"codes is {config.codes} and the model takes {channels} channels"
            raise ValueError(f"{given}; DALL-E's tokenizer has {published.vocabulary} codes and takes 3 channels")
        self.published = published
        if published is not None:
            save_digest_only(self, "published")
        self.tokenizer = Tokenizer(config, channels, backbone.config.patch_size) if published is None else None
        self.mask_token = nn.Parameter(torch.empty(backbone.width))
        self.lm_head = nn.Linear(backbone.width, config.codes)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.lm_head.weight, std=0.02)
        nn.init.zeros_(self.lm_head.bias)
        add_progress(self)

    def input_parameters(self) -> tuple[nn.Parameter, ...]:
        """Returns the mask token, which replaces masked patches before the first block."""
        return (self.mask_token,)

    @property
    def encoder(self) -> TokenBackbone:
        """The backbone, as a `TokenBackbone`."""
        return cast(TokenBackbone, self.backbone)

    @property
    def trains_tokenizer(self) -> bool:
        """Whether the run is in its first phase, which trains the tokenizer."""
        return self.tokenizer is not None and self.done < self.config.tokenizer_fraction

    @property
    def phase(self) -> int:
        """Training phase: 0 while the tokenizer is trained, and 1 while the backbone is trained."""
        return 0 if self.trains_tokenizer else 1

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Returns `loss`, `words` (perplexity of visual tokens) and, once the tokenizer is trained, `accuracy`.

        `loss` is that of the reconstruction while the tokenizer is trained, then the cross-entropy of visual tokens.
        `words` is the perplexity of the visual tokens in the batch, `accuracy` the fraction of correct predictions.
        """
        if self.tokenizer is not None and self.trains_tokenizer:
            return self.tokenizer_step(batch.images, self.tokenizer)
        embedded = self.encoder.embed(batch.images)
        targets = rearrange(self.visual_tokens(batch.images, embedded.grid), "b r s -> b (r s)")
        ratio, smallest, exact = self.config.mask_ratio, self.config.smallest, self.config.exact
        masked = block_masks(targets.shape[0], embedded.grid, ratio, smallest, exact=exact).to(targets.device)
        encoded = self.encoder.encode(apply_mask(embedded, self.encoder, self.mask_token, masked))
        logits, labels = self.lm_head(encoded.patches[masked]).float(), targets[masked]
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "words": self.perplexity(targets), "accuracy": accuracy}

    def tokenizer_step(
        self, images: Float[Tensor, "b c height width"], tokenizer: Tokenizer
    ) -> dict[str, Float[Tensor, ""]]:
        """Returns `loss` (reconstruction and codebook errors) and `words` (perplexity of codes) of a tokenizer step."""
        patch = self.encoder.config.patch_size
        grid = (images.shape[2] // patch[0], images.shape[3] // patch[1])
        vectors = tokenizer.vectors(images[:, :, : grid[0] * patch[0], : grid[1] * patch[1]])
        reconstructed, distance = tokenizer.reconstruct(vectors)
        target = rearrange(patch_pixels(images, grid, patch), "b p h w c -> b p (h w c)")
        loss = F.mse_loss(reconstructed.float(), target) + COMMITMENT * distance
        return {"loss": loss, "words": self.perplexity(tokenizer.nearest_codes(vectors))}

    @torch.no_grad()
    def visual_tokens(self, images: Float[Tensor, "b c height width"], grid: tuple[int, int]) -> Int[Tensor, "b r s"]:
        """Returns the visual token of each patch.

        Images are resized for DALL-E's encoder such that each patch has 8x8 pixels (224 to 112 for patches of 16).
        """
        if self.published is None:
            patch = self.encoder.config.patch_size
            tokenizer = cast(Tokenizer, self.tokenizer)
            vectors = tokenizer.vectors(images[:, :, : grid[0] * patch[0], : grid[1] * patch[1]])
            return tokenizer.nearest_codes(vectors)
        mean, std = (images.new_tensor(each)[:, None, None] for each in (self.config.mean, self.config.std))
        size = [side * STRIDE for side in grid]
        # The original resizes the 8-bit image with a Lanczos filter, which torch does not have.
        small = F.interpolate((images * std + mean).float(), size=size, mode="bicubic", antialias=True)
        return self.published.tokenize(small.clamp(0, 1))

    def perplexity(self, tokens: Int[Tensor, "*b"]) -> Float[Tensor, ""]:
        """Returns the perplexity of the token frequencies, which is the effective number of tokens in use."""
        frequencies = tokens.flatten().bincount(minlength=self.config.codes) / tokens.numel()
        return (-torch.xlogy(frequencies, frequencies).sum()).exp()

    def after_step(self, progress: float) -> None:
        """Updates the codebook during the phase that trains the tokenizer."""
        if self.tokenizer is not None and self.trains_tokenizer:
            self.tokenizer.update_codebook(round(progress * 2**40))
        set_progress(self, progress)


def build(config: Config, backbone: Backbone) -> BEiT:
    """Builds the BEiT objective, and loads tokenizer, mask token and head from the files named in the config."""
    objective = BEiT(config, backbone, load_dalle_encoder(config.tokenizer) if config.tokenizer else None)
    if config.start:
        parts = ("mask_token", "lm_head.weight", "lm_head.bias")
        load_into(objective, config.start, parts, LAYOUTS, what="BEiT's mask token and head of visual tokens")
    return objective
