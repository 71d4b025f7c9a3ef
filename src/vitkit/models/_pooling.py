"""Helper functions for the pooling options of a ViT config, including class tokens of several blocks."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.config import AnyConfig


def check(config: AnyConfig) -> None:
    """Raises ValueError if the pooling of a config needs tokens that the model lacks, or conflicts with `norm`."""
    pool, norm, read = config.pool, config.norm, config.pool_blocks
    if "token" in pool and not config.class_token:
        raise ValueError(f"pool='{pool}' reads the class token, but class_token is False; use pool='gap' or 'map'")
    if pool == "none" and norm == "pooled":
        raise ValueError("norm='pooled' needs a pool, but pool is 'none'; use norm='tokens'")
    if not 1 <= read <= config.depth:
        raise ValueError(f"pool_blocks is {read}; it must be between 1 and the depth, {config.depth}")
    if read > 1 and ("token" not in pool or norm == "pooled"):
        given = f"pool='{pool}' and norm='{norm}'"
        raise ValueError(f"pool_blocks={read} needs pool='token' or 'token+gap' and norm='tokens', not {given}")


def width(config: AnyConfig) -> int:
    """Returns the width of the pooled features: the token width times the number of concatenated tokens."""
    return config.width * (blocks(config) + (config.pool == "token+gap"))


def blocks(config: AnyConfig) -> int:
    """Returns how many of the last blocks provide class tokens for the head (1 by default)."""
    return getattr(config, "pool_blocks", 1)


def class_token_list(config: AnyConfig) -> list[Tensor] | None:
    """Returns an empty list to collect class tokens of blocks, or None if the head uses only the last block."""
    return [] if blocks(config) > 1 else None


def earlier(
    collected: Sequence[Float[Tensor, "b d"]] | None, config: AnyConfig, norm: nn.Module
) -> Float[Tensor, "b blocks d"] | None:
    """Stacks and normalizes the class tokens of blocks before the last one. Returns None if there are none."""
    return norm(torch.stack(list(collected[-blocks(config) : -1]), dim=1)) if collected else None
