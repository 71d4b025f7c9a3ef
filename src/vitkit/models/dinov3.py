"""DINOv3: a ViT with rotary position embeddings only (Simeoni et al. 2025, sections 3.2 and 5)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers import (
    ActivationName,
    Features,
    PatchEmbed,
    PositionInput,
    Taps,
    axial_rotation,
    encoder_blocks,
    init_truncated,
    join_tokens,
    layer_norm,
    pool_tokens,
    run_blocks,
)
from vitkit.models import TokenBackbone, _pooling, vit
from vitkit.task import SINGLE_LABEL, Task


@dataclass(frozen=True, kw_only=True)
class Config:
    """Config of a DINOv3 model. Image size and patch size are (height, width) in pixels.

    `qkv_bias` is a bias of query and value; the original masks the key bias, so it is left out here. `rotary_base` is
    the base of the periods (`layers.rotary_periods`). `rotary_rescale` is the maximum factor by which training randomly
    scales all positions up or down (1 for no scaling). `num_classes` 0 means no head.
    """

    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (16, 16)
    channels: int = 3
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_width: int = 3072
    num_classes: int = 0
    task: Task = SINGLE_LABEL
    num_registers: int = 4
    pool: Literal["token", "gap", "token+gap"] = "token"
    mlp: Literal["mlp", "swiglu"] = "mlp"
    activation: ActivationName = "gelu"
    norm_eps: float = 1e-5
    qkv_bias: bool = True
    rotary_base: float = 100.0
    rotary_rescale: float = 2.0
    layer_scale: float | None = 1e-5
    stochastic_depth: float = 0.0
    stochastic_depth_shape: Literal["linear", "constant"] = "constant"
    dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that the model does not support."""
        # The checks of the plain ViT with the same sizes.
        names = ("image_size", "patch_size", "channels", "width", "depth", "num_heads", "mlp_width")
        vit.Config(**{name: getattr(self, name) for name in names})
        if self.width // self.num_heads % 4:
            head_width = self.width // self.num_heads
            raise ValueError(f"head width {head_width} is not a multiple of 4, which rotary position embeddings need")
        if self.rotary_rescale < 1:
            raise ValueError(f"rotary_rescale is {self.rotary_rescale}; it must be at least 1")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches at the native image size."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]


class DINOv3(TokenBackbone):
    """DINOv3: a ViT with register tokens, and with rotary position embeddings of the patches.

    Parameter names are timm's except LayerScale (`ls1.gamma`) and the gated MLP, whose first two matrices are fused.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.width = config.width
        self.patch_embed = PatchEmbed(config.channels, config.width, config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        registers = config.num_registers
        self.reg_token = nn.Parameter(torch.zeros(1, registers, config.width)) if registers else None
        self.blocks = encoder_blocks(
            config.depth,
            width=config.width,
            num_heads=config.num_heads,
            mlp_width=config.mlp_width,
            mlp=config.mlp,
            activation=config.activation,
            norm_eps=config.norm_eps,
            qkv_bias="qv" if config.qkv_bias else False,
            layer_scale=config.layer_scale,
            stochastic_depth=config.stochastic_depth,
            stochastic_depth_shape=config.stochastic_depth_shape,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
        )
        self.norm = layer_norm(config.width, config.norm_eps)
        self.head = nn.Linear(self.pool_width, config.num_classes) if config.num_classes else nn.Identity()

    @property
    def pool_width(self) -> int:
        """Width of the pooled features."""
        return _pooling.width(self.config)

    def embed(self, images: Float[Tensor, "b c height width"]) -> Features:
        """Returns class token, register tokens and patch tokens, without position embeddings."""
        patches = self.patch_embed(images)
        tokens = join_tokens([self.cls_token, self.reg_token], patches, None)
        return Features(
            tokens=tokens, grid=(patches.shape[2], patches.shape[3]), num_special=1 + self.config.num_registers
        )

    def encode(self, embedded: Features, taps: Taps | None = None) -> Features:
        """Runs tokens through all blocks and the final norm."""
        tokens = run_blocks(self.blocks, embedded.tokens, self.position_inputs(embedded.grid), taps=taps)
        return embedded.with_tokens(self.norm(tokens))

    def position_inputs(self, grid: tuple[int, int]) -> Iterator[PositionInput]:
        """Returns the positional input of each block, which is the same rotation for all blocks."""
        rotation = self.rotation(grid, self.cls_token.device)
        return (PositionInput(rotation=rotation) for _ in self.blocks)

    def rotation(self, grid: tuple[int, int], device: torch.device) -> Float[Tensor, "2 p k"]:
        """Returns the rotary embeddings of a grid of patches. In training, positions are scaled by a random factor."""
        config = self.config
        scale: Tensor | float = 1.0
        if self.training and config.rotary_rescale > 1:
            # Log-uniform between 1 / rescale and rescale, one factor per batch.
            scale = config.rotary_rescale ** (2 * torch.rand((), device=device) - 1)
        head_width = config.width // config.num_heads
        return axial_rotation(grid, head_width, base=config.rotary_base, scale=scale, device=device)

    def represent(self, features: Features) -> Float[Tensor, "b d"]:
        """Returns the class token, the mean of the patch tokens, or both, as `config.pool` selects."""
        return pool_tokens(features, self.config.pool)

    def init_weights(self) -> None:
        """Initializes weights and special tokens from a truncated normal distribution."""
        init_truncated(self)


Model = DINOv3

# width, depth, heads, MLP width, kind of MLP; the "plus" sizes and 7B have gated MLPs.
SIZES: dict[str, tuple[int, int, int, int, Literal["mlp", "swiglu"]]] = {
    "s": (384, 12, 6, 1536, "mlp"),
    "s+": (384, 12, 6, 1536, "swiglu"),
    "b": (768, 12, 12, 3072, "mlp"),
    "l": (1024, 24, 16, 4096, "mlp"),
    "l+": (1024, 24, 16, 4096, "swiglu"),
    "h+": (1280, 32, 20, 5120, "swiglu"),
    "7b": (4096, 40, 32, 8192, "swiglu"),
}


def _preset(size: str) -> Config:
    width, depth, num_heads, mlp_width, mlp = SIZES[size]
    return Config(width=width, depth=depth, num_heads=num_heads, mlp_width=mlp_width, mlp=mlp, qkv_bias=size != "7b")


TINY = Config(
    image_size=(32, 32),
    patch_size=(8, 8),
    width=32,
    depth=2,
    num_heads=2,
    mlp_width=64,
    num_classes=5,
    num_registers=2,
    layer_scale=0.1,
)
PRESETS = {f"dinov3-{size}/16": _preset(size) for size in SIZES}
