"""Axial-ViT: attention along rows, then along columns (ViT paper, appendix D.6).

"Instead of a self-attention followed by an MLP" each layer is a row attention and an MLP, followed by a column
attention and an MLP. There is no class token: the tokens form a grid, and the head reads their mean.

Neither code nor weights were published. The paper does not specify the following, which is chosen as in the plain ViT:
the position table (one trainable vector per patch; scenic's `factorized` table is the alternative), rows before
columns, pre-norm blocks with all biases, and the final norm.
"""

from dataclasses import dataclass
from typing import Literal

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers import (
    MLP,
    ActivationName,
    Attention,
    AxialBlock,
    Features,
    PatchEmbed,
    Taps,
    init_layers,
    init_lecun,
    layer_norm,
    pre_logits,
)
from vitkit.models import TokenBackbone, _positions, vit
from vitkit.task import SINGLE_LABEL, Task


@dataclass(frozen=True, kw_only=True)
class Config:
    """Config of an Axial-ViT model. Image size and patch size are (height, width) in pixels.

    `depth` is the number of pairs of a row block and a column block, as the depth of the corresponding plain ViT.
    `position` is a trainable table with one row per patch (`learned`), two trainable tables of half the width for rows
    and columns (`factorized`), or `none`. `pre_logits` is the width of a tanh layer before the head, 0 for none.
    `num_classes` 0 means no head.
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
    pre_logits: int = 0
    position: Literal["learned", "factorized", "none"] = "learned"
    position_resize: _positions.Resize = "bilinear_corners"
    activation: ActivationName = "gelu"
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    stochastic_depth: float = 0.0
    dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for sizes and options that the model does not support."""
        for name in ("patch_size", "channels", "width", "depth", "num_heads", "mlp_width"):
            value = getattr(self, name)
            if min(value) < 1 if isinstance(value, tuple) else value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of the number of heads {self.num_heads}")
        _positions.check(self)
        if any(size < patch for size, patch in zip(self.image_size, self.patch_size, strict=True)):
            raise ValueError(f"image_size {self.image_size} is smaller than one patch of {self.patch_size}")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches at the native image size."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]


class AxialViT(TokenBackbone):
    """Axial-ViT: alternating blocks with row attention and column attention, final norm, mean pooling and head.

    Parameter names are those of the plain ViT with twice the blocks: even blocks attend along rows, odd ones along
    columns.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.width = config.width
        self.patch_embed = PatchEmbed(config.channels, config.width, config.patch_size)
        _positions.add_tables(self, config)
        self.pos_drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(self._block(index) for index in range(2 * config.depth))
        self.norm = layer_norm(config.width, config.norm_eps)
        self.pre_logits = pre_logits(config.width, config.pre_logits) if config.pre_logits else nn.Identity()
        out = config.pre_logits or config.width
        self.head = nn.Linear(out, config.num_classes) if config.num_classes else nn.Identity()

    def _block(self, index: int) -> AxialBlock:
        config = self.config
        return AxialBlock(
            Attention(config.width, config.num_heads, qkv_bias=config.qkv_bias, dropout=config.attention_dropout),
            MLP(config.width, config.mlp_width, act=config.activation, dropout=config.dropout),
            "column" if index % 2 else "row",
            width=config.width,
            norm_eps=config.norm_eps,
            # Linear from 0 in the first block to the full rate in the last, as in the plain ViT.
            drop_path=config.stochastic_depth * index / (2 * config.depth - 1),
            dropout=config.dropout,
        )

    def embed(self, images: Float[Tensor, "b c height width"]) -> Features:
        """Returns the patch tokens of the images with position embeddings."""
        patches = self.patch_embed(images)
        grid = (patches.shape[2], patches.shape[3])
        tokens = rearrange(patches, "b d r c -> b (r c) d")
        table = self.positions(grid)
        return Features(tokens=self.pos_drop(tokens if table is None else tokens + table), grid=grid)

    def encode(self, embedded: Features, taps: Taps | None = None) -> Features:
        """Runs tokens through all blocks and the final norm."""
        tokens = embedded.tokens
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, embedded.grid)
            if taps is not None and taps.add(index, tokens):
                break
        return embedded.with_tokens(self.norm(tokens))

    def positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 n d"] | None:
        """Returns the position embeddings for a grid of (rows, columns), or None if the model has none."""
        return _positions.tables(self, grid)

    def represent(self, features: Features) -> Float[Tensor, "b d"]:
        """Returns the mean of the patch tokens, after the pre-logits layer if the config has one."""
        return self.pre_logits(features.patches.mean(dim=1))

    def init_weights(self) -> None:
        """Initializes weights as in the plain ViT: Xavier (attention, MLP), LeCun (patch embedding), zero (head)."""
        init_layers(self)
        init_lecun(self.patch_embed.proj)
        for layer in self.pre_logits.children():
            if isinstance(layer, nn.Linear):
                init_lecun(layer)
        _positions.init_tables(self)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)


Model = AxialViT


def _preset(size: str, patch: int) -> Config:
    width, depth, num_heads, mlp_width = vit.SIZES[size]
    return Config(patch_size=(patch, patch), width=width, depth=depth, num_heads=num_heads, mlp_width=mlp_width)


TINY = Config(
    image_size=(24, 32), patch_size=(8, 8), width=32, depth=1, num_heads=2, mlp_width=64, num_classes=5, pre_logits=16
)
PRESETS = {f"axial-vit-{size}/{patch}": _preset(size, patch) for size in ("ti", "s", "b", "l") for patch in (16, 32)}
