"""Vision Transformer in Flax, with the parameter names of Google's code."""

from dataclasses import replace

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vitkit.jax.layers import Block, MapPool, layer_norm, resize_positions, sincos2d
from vitkit.jax.outputs import Features
from vitkit.layers.patches import check_filled
from vitkit.models.vit import Config


def check(config: Config) -> None:
    """Raises ValueError if the config has an option that only the PyTorch model supports."""
    unsupported = {
        "position": config.position in ("factorized", "relative"),
        "position_at": config.position_at != "stem",
        "pool": config.pool == "token+gap",
        "pre_norm": config.pre_norm,
        "patch_bias": not config.patch_bias,
        "head_bias": not config.head_bias,
        "pool_blocks": config.pool_blocks > 1,
        "mlp": config.mlp != "mlp",
        "patch_sizes": bool(config.patch_sizes),
        "stochastic_depth_shape": config.stochastic_depth > 0 and config.stochastic_depth_shape != "linear",
    }
    for name in (name for name, is_set in unsupported.items() if is_set):
        raise ValueError(f"the Flax ViT does not support {name}={getattr(config, name)!r}; use PyTorch")


class Positions(nn.Module):
    """Position embeddings: trainable (`pos_embedding`), sine-cosine or none."""

    config: Config

    @nn.compact
    def __call__(self, grid: tuple[int, int]) -> Float[Array, "1 rows d"] | None:
        """Returns position embeddings for a grid (special tokens first), or None if the model has none."""
        config = self.config
        if config.position == "none":
            return None
        if config.position == "sincos2d":
            return jnp.asarray(sincos2d(grid, config.width))[None]
        num_special = config.num_special_positions
        shape = (1, num_special + config.grid[0] * config.grid[1], config.width)
        table = self.param("pos_embedding", nn.initializers.normal(0.02), shape)[0]
        special, patches = table[:num_special], table[num_special:]
        return jnp.concatenate([special, resize_positions(patches, config.grid, grid, config.position_resize)])[None]


class Transformer(nn.Module):
    """The encoder: position embeddings, blocks and final norm. The class name is that of Google's code."""

    config: Config
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        """Creates the blocks and the final norm. `remat` enables activation checkpointing."""
        config = self.config
        self.posembed_input = Positions(config)
        self.drop = nn.Dropout(config.dropout)
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        self.encoderblock = [
            block(
                num_heads=config.num_heads,
                mlp_width=config.mlp_width,
                act=config.activation,
                norm_eps=config.norm_eps,
                qkv_bias=config.qkv_bias,
                qk_norm=config.qk_norm,
                layer_scale=config.layer_scale,
                drop_path=config.stochastic_depth * index / max(config.depth - 1, 1),
                dropout=config.dropout,
                attention_dropout=config.attention_dropout,
                dtype=self.dtype,
            )
            for index in range(config.depth)
        ]
        self.encoder_norm = layer_norm(config.norm_eps, self.dtype) if config.norm == "tokens" else None

    def embed(
        self, special: Float[Array, "b s d"], patches: Float[Array, "b p d"], grid: tuple[int, int], train: bool
    ) -> Float[Array, "b n d"]:
        """Adds position embeddings to special tokens and patch tokens, then dropout (ViT paper, equation 1)."""
        positions = self.posembed_input(grid)
        if positions is not None:
            # Special tokens without positions (registers) come after those with positions.
            num_rows = self.config.num_special_positions
            positions = positions.astype(self.dtype)
            special = special.at[:, :num_rows].add(positions[:, :num_rows])
            patches = patches + positions[:, num_rows:]
        tokens = self.drop(jnp.concatenate([special, patches], axis=1), deterministic=not train)
        self.sow("intermediates", "embedded", tokens)
        return tokens

    def encode(self, tokens: Float[Array, "b n d"], train: bool) -> Float[Array, "b n d"]:
        """Applies all blocks and the final norm (ViT paper, equations 2-4)."""
        for block in self.encoderblock:
            tokens = block(tokens, train)
        return tokens if self.encoder_norm is None else self.encoder_norm(tokens)


class ViT(nn.Module):
    """Vision Transformer (ViT paper, section 3.1).

    It has the options of `models.vit.Config` that `check` accepts. `dtype` is that of the computations, such as
    bfloat16; parameters keep theirs. `remat` enables activation checkpointing. Training (`train=True`) uses the random
    stream `dropout` if the config has any dropout. Images are floats (b, height, width, c) whose sides are multiples of
    the patch size, or of the native size. Raises ValueError for other sizes and for wrong channels.
    """

    config: Config
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        """Creates the modules with the names of Google's code, which has no registers and no `fc_norm`."""
        config = self.config
        check(config)
        zeros = nn.initializers.zeros
        self.embedding = nn.Conv(config.width, config.patch_size, config.patch_size, "VALID", dtype=self.dtype)
        self.cls = self.param("cls", zeros, (1, 1, config.width)) if config.class_token else None
        registers = config.num_registers
        self.registers = self.param("registers", zeros, (1, registers, config.width)) if registers else None
        self.Transformer = Transformer(config, self.dtype, self.remat)
        self.MAPHead_0 = (
            MapPool(config.num_heads, config.mlp_width, config.activation, config.norm_eps, self.dtype)
            if config.pool == "map"
            else None
        )
        self.fc_norm = layer_norm(config.norm_eps, self.dtype) if config.norm == "pooled" else None
        self.pre_logits = nn.Dense(config.pre_logits, dtype=self.dtype) if config.pre_logits else None
        self.head = nn.Dense(config.num_classes, kernel_init=zeros, dtype=self.dtype) if config.num_classes else None

    def embed(self, images: Float[Array, "b height width c"], *, train: bool = False) -> Features:
        """Converts images to special tokens and patch tokens with position embeddings (ViT paper, equation 1)."""
        config = self.config
        if images.shape[3] != config.channels:
            raise ValueError(f"the images have {images.shape[3]} channels; the model expects {config.channels}")
        if images.shape[1] < config.patch_size[0] or images.shape[2] < config.patch_size[1]:
            patch, size = (f"{each[0]}x{each[1]}" for each in (config.patch_size, images.shape[1:3]))
            raise ValueError(f"an image of {size} pixels is smaller than one patch of {patch}")
        check_filled((images.shape[1], images.shape[2]), config.patch_size, config.image_size)
        patches = self.embedding(images)
        grid = (patches.shape[1], patches.shape[2])
        patches = rearrange(patches, "b r c d -> b (r c) d")
        tokens_of_model = [token for token in (self.cls, self.registers) if token is not None]
        special = jnp.concatenate(tokens_of_model, axis=1) if tokens_of_model else jnp.zeros((1, 0, config.width))
        special = jnp.broadcast_to(special.astype(self.dtype), (images.shape[0], *special.shape[1:]))
        tokens = self.Transformer.embed(special, patches, grid, train)
        return Features(tokens=tokens, grid=grid, num_special=config.num_special)

    def encode(self, embedded: Features, *, train: bool = False) -> Features:
        """Applies all blocks and the final norm (ViT paper, equations 2-4)."""
        return replace(embedded, tokens=self.Transformer.encode(embedded.tokens, train))

    def features(self, images: Float[Array, "b height width c"], *, train: bool = False) -> Features:
        """Returns the tokens of images after the encoder: `encode(embed(images))`."""
        return self.encode(self.embed(images, train=train), train=train)

    def represent(self, features: Features) -> Float[Array, "b *n d"]:
        """Pools the tokens with `config.pool`, then applies the norm and the pre-logits layer if the model has them."""
        if self.config.pool == "token":
            pooled = features.class_token
        elif self.config.pool == "gap":
            pooled = features.patches.mean(axis=1)
        elif self.MAPHead_0 is not None:
            pooled = self.MAPHead_0(features.patches)
        else:
            pooled = features.tokens
        pooled = pooled if self.fc_norm is None else self.fc_norm(pooled)
        return pooled if self.pre_logits is None else jnp.tanh(self.pre_logits(pooled))

    def classify(self, features: Features) -> Float[Array, "b *n classes"]:
        """Returns the logits, or the representation if the model has no classes."""
        representation = self.represent(features)
        return representation if self.head is None else self.head(representation)

    def __call__(self, images: Float[Array, "b height width c"], *, train: bool = False) -> Float[Array, "b *n k"]:
        """Returns the logits of images."""
        return self.classify(self.features(images, train=train))
