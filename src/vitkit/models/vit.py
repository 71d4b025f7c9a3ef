"""The Vision Transformer of "An Image is Worth 16x16 Words", with the options of its public descendants as config.

Dosovitskiy et al. 2021, section 3.1; big_vision's heads and sizes (Zhai et al. 2022; Beyer et al. 2022).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers import (
    ActivationName,
    Features,
    MapPool,
    PatchEmbed,
    Place,
    encoder_blocks,
    init_layers,
    init_lecun,
    init_mae,
    init_truncated,
    join_tokens,
    layer_norm,
    num_offsets,
    pool_tokens,
    pre_logits,
    run_blocks,
    sincos2d,
)
from vitkit.models import TokenBackbone, _pooling, _positions

# The fields of the config that a block is made of.
BLOCK = (
    *("width", "num_heads", "mlp_width", "mlp", "activation", "norm_eps", "qkv_bias", "qk_norm", "layer_scale"),
    *("stochastic_depth", "stochastic_depth_shape", "dropout", "attention_dropout"),
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """A plain ViT; sizes are (rows, columns) in pixels.

    `position` is what tells patches where they are (appendix D.4): a learned vector for each place in their sequence,
    `factorised` ones of half the width for row and column (the paper's 2-D), `relative` ones that attention reads for
    every offset of two patches (`layers.relative`), a fixed sine-cosine table, or none. `position_at` is where
    a table is added: to what the stem gives, or before every layer, one of its own (`layers`) or the same (`shared`).
    `position_tokens` says which tokens have a row in a learned table: the patches, the class token and the patches, or
    every token, registers too; a factorised table has rows for patches alone. `norm` is the final LayerNorm: on all
    tokens before pooling, or on the pooled vector. `token+gap` is the class token beside the patches' mean (DINOv2).
    The class token is that of each of the last `pool_blocks` blocks, side by side behind the norm (DINO's linear heads:
    4). A mean (`gap`) is as good, at a third of the learning rate: 3e-4 for 8e-4 (appendix D.3, Figure 9). `pre_logits`
    is the width of a tanh layer before the head, 0 for none; `num_classes` 0 means no head. `init` is how fresh weights
    are drawn: as the original JAX code, as DeiT and DINO (truncated normal), or as MAE. `patch_sizes` are sides in
    pixels that training draws from, one for each batch, to make a model that works at all of them (FlexiViT, Beyer et
    al. 2023): the projection and the table stay those of `patch_size`, and are resized for the batch.
    """

    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (16, 16)
    channels: int = 3
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_width: int = 3072
    num_classes: int = 1000
    class_token: bool = True
    num_registers: int = 0
    pool: Literal["token", "gap", "map", "none", "token+gap"] = "token"
    pool_blocks: int = 1
    norm: Literal["tokens", "pooled"] = "tokens"
    pre_logits: int = 0
    position: _positions.Position = "learned"
    position_at: _positions.PositionAt = "stem"
    position_tokens: Literal["patches", "class+patches", "all"] = "class+patches"
    position_resize: _positions.Resize = "bilinear_corners"
    mlp: Literal["mlp", "swiglu"] = "mlp"
    activation: ActivationName = "gelu"
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    qk_norm: bool = False
    layer_scale: float | None = None
    stochastic_depth: float = 0.0
    stochastic_depth_shape: Literal["linear", "constant"] = "linear"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    init: Literal["jax", "truncated", "mae"] = "jax"
    patch_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuses what cannot be built, before any memory is taken."""
        for name in ("patch_size", "channels", "width", "depth", "num_heads", "mlp_width"):
            value = getattr(self, name)
            if min(value) < 1 if isinstance(value, tuple) else value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.width % self.num_heads:
            raise ValueError(f"the width {self.width} is not a multiple of the number of heads {self.num_heads}")
        if any(size < patch for size, patch in zip(self.image_size, self.patch_size, strict=True)):
            raise ValueError(f"image_size {self.image_size} is smaller than one patch of {self.patch_size}")
        _pooling.check(self)
        _positions.check(self)
        if any(not 1 <= side <= min(self.image_size) for side in self.patch_sizes):
            raise ValueError(
                f"patch_sizes is {self.patch_sizes}; each is 1 to {min(self.image_size)}, the image's side"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches at the native image size."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def num_special(self) -> int:
        """How many tokens stand before the patches."""
        return int(self.class_token) + self.num_registers

    @property
    def num_special_positions(self) -> int:
        """How many rows of the position table stand before those of the patches; a learned table alone has any."""
        if self.position != "learned":
            return 0
        return {"patches": 0, "class+patches": int(self.class_token), "all": self.num_special}[self.position_tokens]


class ViT(TokenBackbone):
    """The Vision Transformer: patches and positions (equation 1), encoder blocks (2-3), final norm and head (4).

    It can be handed its patch embedding, so that a family composes its own; it gives a map of `config.grid`.
    """

    pos_embed: nn.Parameter | None
    pos_embed_row: nn.Parameter | None
    pos_embed_column: nn.Parameter | None
    sincos: Tensor

    def __init__(self, config: Config, patch_embed: PatchEmbed | None = None):
        super().__init__()
        self.config = config
        self.width = config.width
        sizes = (config.channels, config.width, config.patch_size)
        self.patch_embed = patch_embed or PatchEmbed(*sizes, drawn=config.patch_sizes)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width)) if config.class_token else None
        count = config.num_registers
        self.reg_token = nn.Parameter(torch.zeros(1, count, config.width)) if count else None
        _positions.add_tables(self, config)
        self.pos_drop = nn.Dropout(config.dropout)
        offsets = num_offsets(config.grid) if config.position == "relative" else 0
        fields = {name: getattr(config, name) for name in BLOCK}
        self.blocks = encoder_blocks(config.depth, num_offsets=offsets, **fields)
        self.norm = layer_norm(config.width, config.norm_eps) if config.norm == "tokens" else nn.Identity()
        self.attn_pool = (
            MapPool(config.width, config.num_heads, config.mlp_width, act=config.activation, norm_eps=config.norm_eps)
            if config.pool == "map"
            else None
        )
        self.fc_norm = layer_norm(self.pool_width, config.norm_eps) if config.norm == "pooled" else nn.Identity()
        self.pre_logits = pre_logits(self.pool_width, config.pre_logits) if config.pre_logits else nn.Identity()
        out = config.pre_logits or self.pool_width
        self.head = nn.Linear(out, config.num_classes) if config.num_classes else nn.Identity()

    @property
    def pool_width(self) -> int:
        """The width of a token for each that the pool puts beside another."""
        return _pooling.width(self.config)

    def embed(self, images: Float[Tensor, "b c height width"]) -> Features:
        """Special tokens and patches with their positions (equation 1)."""
        patches = self.patch_embed(images)
        grid = (patches.shape[2], patches.shape[3])
        tokens = join_tokens([self.cls_token, self.reg_token], patches, self.positions(grid))
        return Features(tokens=self.pos_drop(tokens), grid=grid, num_special=self.config.num_special)

    def encode(self, embedded: Features) -> Features:
        """All blocks and the final norm (equations 2-4); positions before each layer where the config wants them so."""
        firsts = _pooling.firsts(self.config)
        tokens = self.norm(run_blocks(self.blocks, embedded.tokens, self.places(embedded.grid), firsts))
        return replace(embedded, tokens=tokens, earlier=_pooling.earlier(firsts, self.config, self.norm))

    def places(self, grid: tuple[int, int]) -> Iterator[Place]:
        """The tables and vectors of positions that belong to the layers, where the config has such."""
        return _positions.places(self, self.blocks, grid)

    def positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 rows d"] | None:
        """The table for a grid, special rows first; None where `embed` adds none, but the layers do or nothing does."""
        return _positions.tables(self, grid) if self.config.position_at == "stem" else None

    def represent(self, features: Features) -> Float[Tensor, "b *n d"]:
        """The class token, the patches' mean or attention pool, or every token; then norm and pre-logits."""
        pooled = self.attn_pool(features.patches) if self.attn_pool else pool_tokens(features, self.config.pool)
        return self.pre_logits(self.fc_norm(pooled))

    def init_weights(self) -> None:
        """By `config.init`; JAX: Xavier for attention and MLP, LeCun for patches, zeros for class token and head."""
        if self.config.init == "jax":
            self._init_jax()
        elif self.config.init == "truncated":
            init_truncated(self)
        else:
            init_mae(self)
            if self.pos_embed is not None:
                table = sincos2d(self.config.grid, self.width, endpoint=False)
                self.pos_embed.data.copy_(F.pad(table, (0, 0, self.config.num_special_positions, 0)))
        self.init_buffers()

    def _init_jax(self) -> None:
        init_layers(self)
        for layer in (self.patch_embed.proj, *self.pre_logits.children()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                init_lecun(layer)
        for parameter in (self.cls_token, self.reg_token, *self.head.parameters()):
            if parameter is not None:
                nn.init.zeros_(parameter)
        _positions.init_tables(self)

    def init_buffers(self) -> None:
        """The sine-cosine table, where the config asks for one."""
        if self.config.position == "sincos2d":
            self.sincos.copy_(sincos2d(self.config.grid, self.config.width))


Model = ViT

# width, depth, heads, MLP width; Ti to H from the paper and AugReg, the rest from big_vision.
SIZES = {
    "mu": (32, 1, 2, 128),
    "ti": (192, 12, 3, 768),
    "s": (384, 12, 6, 1536),
    "m": (512, 12, 8, 2048),
    "b": (768, 12, 12, 3072),
    "l": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "h": (1280, 32, 16, 5120),
    "g": (1408, 40, 16, 6144),
    "g-opt": (1536, 40, 16, 6144),
    "G": (1664, 48, 16, 8192),
    "G-opt": (1536, 48, 16, 8192),
    "e": (1792, 56, 16, 15360),
}


def _preset(size: str, patch: int) -> Config:
    width, depth, num_heads, mlp_width = SIZES[size]
    return Config(patch_size=(patch, patch), width=width, depth=depth, num_heads=num_heads, mlp_width=mlp_width)


TINY = Config(image_size=(32, 32), patch_size=(8, 8), width=32, depth=2, num_heads=2, mlp_width=64, num_classes=5)
PRESETS = {f"vit-{size}/{patch}": _preset(size, patch) for size in SIZES for patch in (8, 14, 16, 32)}
