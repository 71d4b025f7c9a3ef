"""Vision Transformer of "An Image is Worth 16x16 Words", with the options of later plain ViTs.

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
    PositionInput,
    Taps,
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
from vitkit.task import SINGLE_LABEL, Task

# Fields of the config that are arguments of `encoder_blocks`.
BLOCK = (
    *("width", "num_heads", "mlp_width", "mlp", "activation", "norm_eps", "qkv_bias", "qk_norm", "layer_scale"),
    *("stochastic_depth", "stochastic_depth_shape", "dropout", "attention_dropout"),
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Config of a plain ViT. Image size and patch size are (height, width) in pixels.

    `position` is the kind of position embedding (appendix D.4): `learned`, one trainable vector per patch of the
    sequence; `factorized`, trainable vectors of half the width for row and column (the paper's 2-D); `relative`,
    vectors for every offset of two patches in attention (`layers.relative`); `sincos2d`, a fixed sine-cosine table; or
    `none`. `position_at` is where a table is added: after the stem (`stem`), or before every layer, one table per layer
    (`layers`) or the same table (`shared`). `position_tokens` are the tokens with a row in a learned table: the
    patches, the class token and the patches, or every token, including registers. A factorized table has rows for
    patches only.

    `pool` is the class token (`token`), the mean of the patches (`gap`), attention pooling (`map`), class token and
    mean concatenated (`token+gap`, DINOv2), or every token (`none`). With `pool_blocks` the normalized class tokens
    of that many last blocks are concatenated (4 for DINO's linear heads). `gap` reaches the accuracy of `token` with a
    learning rate of 3e-4 instead of 8e-4 (appendix D.3, Figure 9). `norm` is the position of the final LayerNorm: on
    all tokens before the pooling, on the pooled vector, or `none` for no final norm. `pre_norm` adds a LayerNorm before
    the first block; `patch_bias` and `head_bias` are the biases of patch embedding and head, which CLIP does not have
    (Radford et al. 2021). `pre_logits` is the width of a tanh layer before the head, 0 for none. `num_classes` 0 means
    no head.

    `init` is the initialization: that of the original JAX code, of DeiT and DINO (truncated normal), or of MAE.
    `patch_sizes` are sides in pixels of which training samples one per batch, for a model that works with all of them
    (FlexiViT, Beyer et al. 2023): the parameters fit `patch_size` and are resized for the batch.
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
    class_token: bool = True
    num_registers: int = 0
    pool: Literal["token", "gap", "map", "none", "token+gap"] = "token"
    pool_blocks: int = 1
    norm: Literal["tokens", "pooled", "none"] = "tokens"
    pre_norm: bool = False
    patch_bias: bool = True
    head_bias: bool = True
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
        """Raises ValueError for sizes and options that the model does not support."""
        for name in ("patch_size", "channels", "width", "depth", "num_heads", "mlp_width"):
            value = getattr(self, name)
            if min(value) < 1 if isinstance(value, tuple) else value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of the number of heads {self.num_heads}")
        if any(size < patch for size, patch in zip(self.image_size, self.patch_size, strict=True)):
            raise ValueError(f"image_size {self.image_size} is smaller than one patch of {self.patch_size}")
        _pooling.check(self)
        _positions.check(self)
        if any(not 1 <= side <= min(self.image_size) for side in self.patch_sizes):
            side = min(self.image_size)
            raise ValueError(
                f"patch_sizes is {self.patch_sizes}; each must be between 1 and {side}, the side of the image"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches at the native image size."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def num_special(self) -> int:
        """Number of special tokens before the patch tokens, such as the class token and registers."""
        return int(self.class_token) + self.num_registers

    @property
    def num_special_positions(self) -> int:
        """Number of special tokens that have a position embedding. It is 0 unless position embeddings are learned."""
        if self.position != "learned":
            return 0
        return {"patches": 0, "class+patches": int(self.class_token), "all": self.num_special}[self.position_tokens]


class ViT(TokenBackbone):
    """Vision Transformer (equations 1-4 of the ViT paper): embedding, encoder blocks, final norm and head.

    `patch_embed` replaces the default patch embedding, for other families; its output is a map of `config.grid`.
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
        self.patch_embed = patch_embed or PatchEmbed(*sizes, patch_sizes=config.patch_sizes, bias=config.patch_bias)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width)) if config.class_token else None
        count = config.num_registers
        self.reg_token = nn.Parameter(torch.zeros(1, count, config.width)) if count else None
        _positions.add_tables(self, config)
        self.pos_drop = nn.Dropout(config.dropout)
        self.norm_pre = layer_norm(config.width, config.norm_eps) if config.pre_norm else nn.Identity()
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
        self.head = nn.Linear(out, config.num_classes, bias=config.head_bias) if config.num_classes else nn.Identity()

    @property
    def pool_width(self) -> int:
        """Width of the pooled features: the token width times the number of concatenated tokens."""
        return _pooling.width(self.config)

    def embed(self, images: Float[Tensor, "b c height width"]) -> Features:
        """Returns the special tokens and patch tokens, with position embeddings added (ViT paper, equation 1).

        If `pre_norm` of the config is True, the tokens are normalized.
        """
        patches = self.patch_embed(images)
        grid = (patches.shape[2], patches.shape[3])
        tokens = join_tokens([self.cls_token, self.reg_token], patches, self.positions(grid))
        return Features(tokens=self.norm_pre(self.pos_drop(tokens)), grid=grid, num_special=self.config.num_special)

    def encode(self, embedded: Features, taps: Taps | None = None) -> Features:
        """Runs tokens through all blocks and the final norm (ViT paper, equations 2-4)."""
        class_tokens = None if taps is not None and taps.stops else _pooling.class_token_list(self.config)
        positions = self.position_inputs(embedded.grid)
        tokens = self.norm(run_blocks(self.blocks, embedded.tokens, positions, class_tokens, taps))
        return replace(embedded, tokens=tokens, earlier=_pooling.earlier(class_tokens, self.config, self.norm))

    def position_inputs(self, grid: tuple[int, int]) -> Iterator[PositionInput]:
        """Yields the positional input of each block: position embeddings to add, and relative position vectors."""
        return _positions.position_inputs(self, self.blocks, grid)

    def positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 rows d"] | None:
        """Returns the position embeddings that `embed` adds (special tokens first), or None if `embed` adds none."""
        return _positions.tables(self, grid) if self.config.position_at == "stem" else None

    def represent(self, features: Features) -> Float[Tensor, "b *n d"]:
        """Returns the pooled tokens, after the final norm and the pre-logits layer if these follow pooling."""
        pooled = self.attn_pool(features.patches) if self.attn_pool else pool_tokens(features, self.config.pool)
        return self.pre_logits(self.fc_norm(pooled))

    def init_weights(self) -> None:
        """Initializes all weights with the scheme `config.init`, such as "jax" or "truncated".

        "jax" is Xavier for attention and MLP, LeCun for patches, and a zero head.
        """
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
        """Computes the sine-cosine position embedding if the config has one."""
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
