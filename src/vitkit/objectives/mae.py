"""Masked autoencoders (MAE): reconstruction of images from a quarter of the patches (He et al. 2021)."""

from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vitkit.checkpoints.formats.huggingface import ALIASES, MLP_ALIASES
from vitkit.checkpoints.formats.huggingface import vit as huggingface
from vitkit.checkpoints.pretraining import Layout, load_parts
from vitkit.checkpoints.table import FUSED3, Rule, Table
from vitkit.data.loader import Batch
from vitkit.models import Backbone
from vitkit.models.deit import DeiT
from vitkit.models.mae import MAEDecoder
from vitkit.models.vit import ViT
from vitkit.objectives import Objective
from vitkit.objectives.masked import patch_pixels

NEEDS_LABELS = False

PATCH_EPS = 1e-6
OWN = (
    *("mask_token", "decoder_pos_embed", "decoder_embed.{leaf}", "decoder_norm.{leaf}", "decoder_pred.{leaf}"),
    *(
        f"decoder_blocks.{{i}}.{part}.{{leaf}}"
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    ),
)
# The decoder in MAE's own files, and in transformers' files, where its blocks are named as those of the encoder.
LAYOUTS = (
    Layout(Table(tuple(Rule(name, (name,)) for name in OWN))),
    Layout(
        Table(
            (
                *(Rule(name, (f"decoder.{name}",)) for name in OWN if "blocks" not in name),
                *(Rule(f"decoder_{ours}", (theirs,)) for ours, theirs in huggingface.PAIRS.items() if "blocks" in ours),
                Rule("decoder_blocks.{i}.attn.qkv.{leaf}", huggingface.QKV, FUSED3),
            )
        ),
        aliases=((r"^decoder\.decoder_(?:layers|encoder\.layer)\.", "layers."), *ALIASES, *MLP_ALIASES),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Config of MAE: fraction of masked patches, normalization of the target, and size of the decoder.

    `mask_ratio` is the fraction of masked patches. `normalized` normalizes the target by the mean and standard
    deviation of each patch's pixels, over all channels (section 4.1, "Reconstruction target"). `start` is a checkpoint
    from which the decoder is loaded: a full file of MAE's code, or transformers' ViTMAEForPreTraining.
    """

    mask_ratio: float = 0.75
    normalized: bool = True
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    start: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError if a fraction is out of range."""
        if not 0.0 < self.mask_ratio < 1.0:
            raise ValueError(f"mask_ratio is {self.mask_ratio}; it must be above 0 and below 1")


class MAE(Objective):
    """MAE objective: a plain ViT encodes the visible patches, and a decoder predicts the pixels of all patches.

    Positions that are initialized as the sine-cosine table (init="mae") are frozen. Raises ValueError for a backbone
    whose blocks need the full grid (relative positions, rotations, axial attention), or without a class token.
    """

    def __init__(self, config: Config, backbone: Backbone):
        super().__init__()
        if not isinstance(backbone, ViT | DeiT):
            raise ValueError(
                f"MAE encodes only the visible patches, but the blocks of {type(backbone).__name__} need "
                "the full grid; use a plain ViT"
            )
        if isinstance(backbone, ViT) and backbone.config.patch_sizes:
            raise ValueError(
                "MAE reconstructs patches of one size and does not support patch_sizes; set patch_sizes to ()"
            )
        if isinstance(backbone, ViT) and (
            backbone.config.position == "relative" or backbone.config.position_at != "stem"
        ):
            raise ValueError(
                "MAE encodes only the visible patches, but the layers of this model need positions of the full grid; "
                "set position_at='stem' and a position other than 'relative'"
            )
        if isinstance(backbone, ViT) and not backbone.config.class_token:
            raise ValueError(
                "MAE's decoder needs a class token, but the model has none; set class_token=True (any pool works)"
            )
        self.config = config
        self.backbone = backbone
        self.decoder = MAEDecoder(
            backbone.width,
            backbone.config.grid,
            patch_size=backbone.config.patch_size,
            channels=backbone.config.channels,
            decoder_width=config.decoder_width,
            depth=config.decoder_depth,
            num_heads=config.decoder_heads,
            norm_eps=backbone.config.norm_eps,
        )
        self.decoder.init_weights()
        if isinstance(backbone, ViT) and backbone.config.init == "mae" and backbone.pos_embed is not None:
            backbone.pos_embed.requires_grad_(False)

    def blocks(self) -> list[nn.Module]:
        """Returns the transformer blocks of the encoder and the decoder."""
        return [*super().blocks(), *self.decoder.decoder_blocks]

    @property
    def encoder(self) -> ViT | DeiT:
        """The backbone, as a plain ViT."""
        return cast(ViT | DeiT, self.backbone)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Returns `loss`, the mean squared error of the predicted pixels of masked patches."""
        # On the CPU, so that a seed gives the same masks on every device.
        noise = torch.rand(batch.images.shape[0], self.num_patches(batch.images))
        predicted, masked = self.reconstruct(batch.images, noise.to(batch.images.device))
        return {"loss": (predicted.float() - self.target(batch.images)).square().mean(dim=2)[masked].mean()}

    def num_patches(self, images: Float[Tensor, "b c height width"]) -> int:
        """Returns the number of patches per image."""
        rows, columns = self.grid(images)
        return rows * columns

    def grid(self, images: Float[Tensor, "b c height width"]) -> tuple[int, int]:
        """Returns the number of rows and columns of patches in an image."""
        height, width = self.encoder.config.patch_size
        return images.shape[2] // height, images.shape[3] // width

    def reconstruct(
        self, images: Float[Tensor, "b c height width"], noise: Float[Tensor, "b p"]
    ) -> tuple[Float[Tensor, "b p pixels"], Bool[Tensor, "b p"]]:
        """Returns the predicted pixels of every patch, and a mask that is True for masked patches.

        The patches with the smallest `noise` are visible, ordered by their noise as in the original.
        """
        embedded = self.encoder.embed(images)
        order = noise.argsort(dim=1)
        restore = order.argsort(dim=1)
        visible = int(noise.shape[1] * (1 - self.config.mask_ratio))
        if visible < 1:
            raise ValueError(
                f"masking {self.config.mask_ratio:.0%} of {noise.shape[1]} patches leaves no visible "
                "patch; use a lower mask_ratio"
            )
        index = repeat(order[:, :visible], "b v -> b v d", d=embedded.tokens.shape[2])
        tokens = torch.cat([embedded.special, embedded.patches.gather(1, index)], dim=1)
        encoded = self.encoder.encode(embedded.with_tokens(tokens))
        # The decoder reads the class token only, not the other special tokens.
        inputs = torch.cat([encoded.special[:, :1], encoded.patches], dim=1)
        return self.decoder(inputs, restore, embedded.grid), restore >= visible

    def target(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b p pixels"]:
        """Returns the pixels of every patch, normalized per patch if the config enables normalization."""
        pixels = patch_pixels(images, self.grid(images), self.encoder.config.patch_size)
        pixels = rearrange(pixels, "b p h w c -> b p (h w c)").float()
        if not self.config.normalized:
            return pixels
        variance, mean = torch.var_mean(pixels, dim=2, keepdim=True)
        return (pixels - mean) / (variance + PATCH_EPS).sqrt()


def build(config: Config, backbone: Backbone) -> MAE:
    """Builds the MAE objective, and loads the decoder if the config names a checkpoint."""
    objective = MAE(config, backbone)
    if config.start:
        wanted = {name: tuple(each.shape) for name, each in objective.decoder.state_dict().items()}
        heads = config.decoder_heads
        state = load_parts(config.start, wanted, LAYOUTS, what="MAE's decoder", num_heads=heads)
        objective.decoder.load_state_dict(state)
    return objective
