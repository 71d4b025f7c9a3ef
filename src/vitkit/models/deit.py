"""DeiT with its distillation token; DeiT and DeiT III without one are presets of the plain ViT.

Touvron et al. 2021, "Training data-efficient image transformers & distillation through attention", section 4; Touvron
et al. 2022, "DeiT III".
"""

import copy
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers import (
    ActivationName,
    Features,
    PatchEmbed,
    Place,
    encoder_blocks,
    init_truncated,
    join_tokens,
    layer_norm,
    resize_positions,
    run_blocks,
)
from vitkit.models import TokenBackbone, _positions, vit


@dataclass(frozen=True, kw_only=True)
class Config:
    """A distilled DeiT: a plain ViT with a second special token and a second head; sizes are (rows, columns) in pixels.

    Every token has a row of the position table. `num_classes` 0 means no heads.
    """

    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (16, 16)
    channels: int = 3
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_width: int = 3072
    num_classes: int = 1000
    position_resize: _positions.Resize = "bicubic"
    activation: ActivationName = "gelu"
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    stochastic_depth: float = 0.0
    dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuses what cannot be built, before any memory is taken."""
        # The plain ViT of the same numbers has the same limits.
        vit.Config(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches at the native image size."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]


class DeiT(TokenBackbone):
    """A ViT with a class token and a distillation token, each read by a head of its own.

    Its logits are the mean of the two heads' (section 4, "Joint classifiers"); `both` gives them apart, for training
    the second on what a teacher says. Parameter names are DeiT's own.
    """

    head_modules = ("head", "head_dist")

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.width = config.width
        self.patch_embed = PatchEmbed(config.channels, config.width, config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 2 + math.prod(config.grid), config.width))
        self.pos_drop = nn.Dropout(config.dropout)
        self.blocks = encoder_blocks(
            config.depth,
            width=config.width,
            num_heads=config.num_heads,
            mlp_width=config.mlp_width,
            activation=config.activation,
            norm_eps=config.norm_eps,
            qkv_bias=config.qkv_bias,
            stochastic_depth=config.stochastic_depth,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
        )
        self.norm = layer_norm(config.width, config.norm_eps)
        self.head = nn.Linear(config.width, config.num_classes) if config.num_classes else nn.Identity()
        self.head_dist = nn.Linear(config.width, config.num_classes) if config.num_classes else nn.Identity()

    def embed(self, images: Float[Tensor, "b c height width"]) -> Features:
        """Class token, distillation token and patches, with their positions."""
        patches = self.patch_embed(images)
        grid = (patches.shape[2], patches.shape[3])
        tokens = join_tokens([self.cls_token, self.dist_token], patches, self.positions(grid))
        return Features(tokens=self.pos_drop(tokens), grid=grid, num_special=2)

    def encode(self, embedded: Features) -> Features:
        """All blocks and the final norm."""
        return embedded.with_tokens(self.norm(run_blocks(self.blocks, embedded.tokens, self.places(embedded.grid))))

    def places(self, grid: tuple[int, int]) -> Iterator[Place]:
        """Nothing: positions are in the tokens."""
        return (Place() for _ in self.blocks)

    def positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 rows d"]:
        """The position table for a grid of that many rows and columns of patches, the two special rows first."""
        native, dialect = self.config.grid, self.config.position_resize
        return resize_positions(self.pos_embed[0], native, grid, dialect, special=2)[None]

    def represent(self, features: Features) -> Float[Tensor, "b d"]:
        """The mean of the class and the distillation token, one vector for searching and probing."""
        return features.special.mean(dim=1)

    def both(self, features: Features) -> Float[Tensor, "b 2 classes"]:
        """The logits of the class token's head and of the distillation token's."""
        first, second = features.special.unbind(1)
        return torch.stack([self.head(first), self.head_dist(second)], dim=1)

    def logits(self, features: Features) -> Float[Tensor, "b classes"]:
        """The mean of the two heads' logits (not of their probabilities), in training too: see `both`."""
        return self.both(features).mean(dim=1)

    def reset_head(self, num_classes: int) -> None:
        """Puts two new, zero heads for `num_classes` in place of the old ones."""
        super().reset_head(num_classes)
        self.head_dist = copy.deepcopy(self.head)

    def init_weights(self) -> None:
        """Truncated normal weights, tokens and positions (DeiT's code)."""
        init_truncated(self)


Model = DeiT

# width, depth, heads; the MLP is four times as wide.
SIZES = {
    "ti": (192, 12, 3),
    "s": (384, 12, 6),
    "m": (512, 12, 8),
    "b": (768, 12, 12),
    "l": (1024, 24, 16),
    "h": (1280, 32, 16),
}


def _distilled(size: str, image: int = 224) -> Config:
    width, depth, num_heads = SIZES[size]
    return Config(image_size=(image, image), width=width, depth=depth, num_heads=num_heads, mlp_width=4 * width)


def _plain(size: str, image: int = 224) -> vit.Config:
    shape = {field.name: getattr(_distilled(size, image), field.name) for field in dataclasses.fields(Config)}
    return vit.Config(**shape, init="truncated")


def _third(size: str, patch: int = 16, image: int = 224) -> vit.Config:
    return dataclasses.replace(
        _plain(size, image),
        patch_size=(patch, patch),
        position_tokens="patches",
        layer_scale=1e-4,
        stochastic_depth_shape="constant",
    )


TINY = Config(image_size=(32, 32), patch_size=(8, 8), width=32, depth=2, num_heads=2, mlp_width=64, num_classes=5)
PRESETS: dict[str, Config | vit.Config] = {
    **{f"deit-{size}/16": _plain(size) for size in ("ti", "s", "b")},
    "deit-b/16-384": _plain("b", 384),
    **{f"deit-{size}/16-distilled": _distilled(size) for size in ("ti", "s", "b")},
    "deit-b/16-distilled-384": _distilled("b", 384),
    **{f"deit3-{size}/16": _third(size) for size in ("ti", "s", "m", "b", "l")},
    **{f"deit3-{size}/16-384": _third(size, image=384) for size in ("s", "b", "l")},
    "deit3-h/14": _third("h", patch=14),
}
