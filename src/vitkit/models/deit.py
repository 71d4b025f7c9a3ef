"""DeiT with a distillation token. Other DeiT and DeiT III models are presets of the plain ViT.

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
    PositionInput,
    Taps,
    encoder_blocks,
    init_truncated,
    join_tokens,
    layer_norm,
    resize_positions,
    run_blocks,
)
from vitkit.models import TokenBackbone, _positions, vit
from vitkit.task import SINGLE_LABEL, Task


@dataclass(frozen=True, kw_only=True)
class Config:
    """Config of a distilled DeiT model. Image size and patch size are (height, width) in pixels.

    The position table has a row for every token. `num_classes` 0 means no heads.
    """

    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (16, 16)
    channels: int = 3
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_width: int = 3072
    num_classes: int = 1000
    task: Task = SINGLE_LABEL
    position_resize: _positions.Resize = "bicubic"
    activation: ActivationName = "gelu"
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    stochastic_depth: float = 0.0
    dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that the model does not support."""
        # The checks of the plain ViT with the same sizes.
        vit.Config(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches at the native image size."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]


class DeiT(TokenBackbone):
    """DeiT: a ViT with a class token and a distillation token, each with its own head.

    The logits are the mean over both heads (section 4, "Joint classifiers"); `both_logits` returns them separately, to
    train the second head on a teacher's predictions. Parameter names are DeiT's own.
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
        """Returns class token, distillation token and patch tokens, with position embeddings."""
        patches = self.patch_embed(images)
        grid = (patches.shape[2], patches.shape[3])
        tokens = join_tokens([self.cls_token, self.dist_token], patches, self.positions(grid))
        return Features(tokens=self.pos_drop(tokens), grid=grid, num_special=2)

    def encode(self, embedded: Features, taps: Taps | None = None) -> Features:
        """Runs tokens through all blocks and the final norm."""
        tokens = run_blocks(self.blocks, embedded.tokens, self.position_inputs(embedded.grid), taps=taps)
        return embedded.with_tokens(self.norm(tokens))

    def position_inputs(self, grid: tuple[int, int]) -> Iterator[PositionInput]:
        """Returns an empty positional input for each block, because `embed` adds the position embeddings."""
        return (PositionInput() for _ in self.blocks)

    def positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 rows d"]:
        """Returns the position embeddings for a grid of (rows, columns), with the two special tokens first."""
        native, method = self.config.grid, self.config.position_resize
        return resize_positions(self.pos_embed[0], native, grid, method, special=2)[None]

    def represent(self, features: Features) -> Float[Tensor, "b d"]:
        """Returns the mean of the class token and the distillation token of each image."""
        return features.special.mean(dim=1)

    def both_logits(self, features: Features) -> Float[Tensor, "b 2 classes"]:
        """Returns the logits of both heads: first the class token's head, then the distillation token's head."""
        first, second = features.special.unbind(1)
        return torch.stack([self.head(first), self.head_dist(second)], dim=1)

    def logits(self, features: Features) -> Float[Tensor, "b classes"]:
        """Returns the mean of the logits of both heads (not of the probabilities), also during training."""
        return self.both_logits(features).mean(dim=1)

    def reset_head(self, num_classes: int) -> None:
        """Replaces both heads with zero-initialized linear heads for `num_classes`."""
        super().reset_head(num_classes)
        self.head_dist = copy.deepcopy(self.head)

    def init_weights(self) -> None:
        """Initializes weights, special tokens and position embeddings from a truncated normal, as in DeiT's code."""
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
