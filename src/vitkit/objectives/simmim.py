"""SimMIM: painting the pixels of masked squares through one linear layer (Xie et al. 2022, section 3)."""

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
from vitkit.objectives.masked import patch_pixels, put_mask, token_backbone

# The parts in SimMIM's files; transformers has the mask token among the embeddings.
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


@dataclass(frozen=True, kw_only=True)
class Config:
    """The share of squares that are `masked`, and how many pixels a side one has (`unit`).

    A unit is a whole number of patches each way; where a patch is no smaller, the patches themselves are masked.
    `start` is a checkpoint whose mask token and decoder these go on from: a file of SimMIM's pre-training, or
    transformers' ViTForMaskedImageModeling.
    """

    masked: float = 0.6
    unit: int = 32
    start: str = ""

    def __post_init__(self) -> None:
        """Refuses what masks nothing."""
        if not 0.0 < self.masked <= 1.0 or self.unit < 1:
            raise ValueError(f"masked is {self.masked} and unit {self.unit}; a share above 0, and at least 1 pixel")


class SimMIM(Objective):
    """A backbone that sees all tokens, masked ones as the mask token, and a layer from each to its patch's pixels.

    The layer is the original's 1x1 convolution: its outputs are (channel, row, column), the column fastest. Raises
    ValueError for a backbone without tokens and for a unit that patches do not fill.
    """

    def __init__(self, config: Config, backbone: Backbone):
        super().__init__()
        self.config = config
        self.backbone = backbone = token_backbone(backbone, "SimMIM")
        rows, columns = backbone.config.patch_size
        self.span = (max(1, config.unit // rows), max(1, config.unit // columns))
        if any(config.unit > patch and config.unit % patch for patch in (rows, columns)):
            raise ValueError(f"a unit of {config.unit} pixels is not a whole number of patches of {rows}x{columns}")
        self.mask_token = nn.Parameter(torch.empty(backbone.width))
        self.decoder = nn.Linear(backbone.width, backbone.config.channels * rows * columns)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def input_parameters(self) -> tuple[nn.Parameter, ...]:
        """The mask token: it replaces patches before the first block."""
        return (self.mask_token,)

    @property
    def encoder(self) -> TokenBackbone:
        """The backbone, which `__init__` has checked."""
        return cast(TokenBackbone, self.backbone)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """`loss`: how far off, on average, a masked pixel's normalised colour is in a channel."""
        embedded = self.encoder.embed(batch.images)
        masked = unit_mask(batch.images.shape[0], embedded.grid, self.span, self.config.masked)
        encoded = self.encoder.encode(put_mask(embedded, self.encoder, self.mask_token, masked))
        painted = self.decoder(encoded.patches[masked.to(batch.images.device)]).float()
        pixels = patch_pixels(batch.images, embedded.grid, self.encoder.config.patch_size)[masked]
        return {"loss": (painted - rearrange(pixels, "n h w c -> n (c h w)")).abs().mean()}


def unit_mask(num: int, grid: tuple[int, int], span: tuple[int, int], share: float) -> Bool[Tensor, "b p"]:
    """The patches of that share of units of `span` (rows, columns) of patches, rounded up.

    A grid that units do not fill has smaller ones at its right and bottom.
    """
    rows, columns = (-(-size // each) for size, each in zip(grid, span, strict=True))
    # Against a product such as 0.6 * 5 that comes out just above 3.
    count = math.ceil(share * rows * columns - 1e-9)
    units = rearrange(torch.rand(num, rows * columns).argsort(dim=1).argsort(dim=1) < count, "b (r c) -> b r c", r=rows)
    whole = repeat(units, "b r c -> b (r h) (c w)", h=span[0], w=span[1])
    return rearrange(whole[:, : grid[0], : grid[1]], "b r c -> b (r c)")


def build(config: Config, backbone: Backbone) -> SimMIM:
    """The objective around a backbone, its own parts as the config says."""
    objective = SimMIM(config, backbone)
    if config.start:
        parts = ("mask_token", "decoder.weight", "decoder.bias")
        load_into(objective, config.start, parts, LAYOUTS, what="SimMIM's mask token and decoder")
    return objective
