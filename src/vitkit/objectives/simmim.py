"""SimMIM: prediction of masked pixels with one linear layer (Xie et al. 2022, section 3)."""

import math
from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vitkit.checkpoints.pretraining import POINTWISE, TOKEN, Layout
from vitkit.checkpoints.table import Rule, Table
from vitkit.data.loader import Batch
from vitkit.models import Backbone, TokenBackbone
from vitkit.objectives import Objective, load_into
from vitkit.objectives.masked import apply_mask, patch_pixels, token_backbone

# Names in SimMIM's files; in transformers' files the mask token belongs to the embeddings.
LAYOUTS = (
    Layout(
        Table(
            (
                Rule("mask_token", ("encoder.mask_token",), TOKEN),
                Rule("decoder.weight", ("decoder.0.weight",), POINTWISE),
                Rule("decoder.bias", ("decoder.0.bias",)),
            )
        ),
        aliases=((r"^(?:vit|beit|deit)\.embeddings\.mask_token$", "encoder.mask_token"),),
    ),
)


NEEDS_LABELS = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """Config of SimMIM. A fraction `mask_ratio` of all squares with a side of `unit` pixels is masked.

    `unit` must be a multiple of the patch size; if patches are at least as large, single patches are masked. `start` is
    a checkpoint from which mask token and decoder are loaded: a file of SimMIM's pre-training, or transformers'
    ViTForMaskedImageModeling.
    """

    mask_ratio: float = 0.6
    unit: int = 32
    start: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError if a value is out of range."""
        if not 0.0 < self.mask_ratio <= 1.0 or self.unit < 1:
            given = f"mask_ratio is {self.mask_ratio} and unit {self.unit}"
            raise ValueError(f"{given}; mask_ratio must be above 0 and at most 1, and unit must be at least 1")


class SimMIM(Objective):
    """SimMIM objective: a backbone encodes all tokens, including mask tokens, and a linear layer predicts pixels.

    The layer is the 1x1 convolution of the original: its outputs are in the order (channel, row, column). Raises
    ValueError for a backbone without tokens, and for a unit that is not a multiple of the patch size.
    """

    def __init__(self, config: Config, backbone: Backbone):
        super().__init__()
        self.config = config
        self.backbone = backbone = token_backbone(backbone, "SimMIM")
        rows, columns = backbone.config.patch_size
        self.span = (max(1, config.unit // rows), max(1, config.unit // columns))
        if any(config.unit > patch and config.unit % patch for patch in (rows, columns)):
            raise ValueError(f"unit {config.unit} is not a multiple of the patch size {rows}x{columns}")
        self.mask_token = nn.Parameter(torch.empty(backbone.width))
        self.decoder = nn.Linear(backbone.width, backbone.config.channels * rows * columns)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def input_parameters(self) -> tuple[nn.Parameter, ...]:
        """Returns the mask token, which replaces masked patches before the first block."""
        return (self.mask_token,)

    @property
    def encoder(self) -> TokenBackbone:
        """The backbone, as a `TokenBackbone`."""
        return cast(TokenBackbone, self.backbone)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Returns `loss`, the mean absolute error of the predicted pixels of masked patches."""
        embedded = self.encoder.embed(batch.images)
        masked = unit_mask(batch.images.shape[0], embedded.grid, self.span, self.config.mask_ratio)
        encoded = self.encoder.encode(apply_mask(embedded, self.encoder, self.mask_token, masked))
        predicted = self.decoder(encoded.patches[masked.to(batch.images.device)]).float()
        pixels = patch_pixels(batch.images, embedded.grid, self.encoder.config.patch_size)[masked]
        return {"loss": (predicted - rearrange(pixels, "n h w c -> n (c h w)")).abs().mean()}


def unit_mask(num: int, grid: tuple[int, int], span: tuple[int, int], ratio: float) -> Bool[Tensor, "b p"]:
    """Samples a mask of patches: a fraction `ratio` of units, each of `span` (rows, columns) patches, is masked.

    Units at the right and the bottom of the grid can be smaller.
    """
    rows, columns = (-(-size // each) for size, each in zip(grid, span, strict=True))
    # The tolerance is for products such as 0.6 * 5, which rounding puts just above 3.
    count = math.ceil(ratio * rows * columns - 1e-9)
    units = rearrange(torch.rand(num, rows * columns).argsort(dim=1).argsort(dim=1) < count, "b (r c) -> b r c", r=rows)
    masks = repeat(units, "b r c -> b (r h) (c w)", h=span[0], w=span[1])
    return rearrange(masks[:, : grid[0], : grid[1]], "b r c -> b (r c)")


def build(config: Config, backbone: Backbone) -> SimMIM:
    """Builds the SimMIM objective, and loads mask token and decoder if the config names a checkpoint."""
    objective = SimMIM(config, backbone)
    if config.start:
        parts = ("mask_token", "decoder.weight", "decoder.bias")
        load_into(objective, config.start, parts, LAYOUTS, what="SimMIM's mask token and decoder")
    return objective
