"""Which tokens the head of a ViT reads: what a config says of them, checked, and how wide they are together."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


def check(config: Any) -> None:
    """ValueError for a pool that reads what there is not, and for norms that do not go with it."""
    pool, norm, read = config.pool, config.norm, config.pool_blocks
    if "token" in pool and not config.class_token:
        raise ValueError(f"pool='{pool}' reads the class token, but there is none; pool can be 'gap' or 'map'")
    if pool == "none" and norm == "pooled":
        raise ValueError("norm='pooled' needs a pool, but pool is 'none'")
    if not 1 <= read <= config.depth:
        raise ValueError(f"pool_blocks is {read}; it is 1 to {config.depth}, the blocks there are")
    if read > 1 and ("token" not in pool or norm == "pooled"):
        given = f"pool='{pool}' and norm='{norm}'"
        raise ValueError(f"pool_blocks={read} reads class tokens behind the final norm, which {given} do not")


def width(config: Any) -> int:
    """The width of what is pooled: that of a token for each that stands beside another."""
    return config.width * (blocks(config) + (config.pool == "token+gap"))


def blocks(config: Any) -> int:
    """How many blocks' class tokens the head reads: 1 in families that have no word for it."""
    return getattr(config, "pool_blocks", 1)


def firsts(config: Any) -> list[Tensor] | None:
    """Where blocks put their class tokens, if the head reads those of several; None if it does not."""
    return [] if blocks(config) > 1 else None


def earlier(
    given: Sequence[Float[Tensor, "b d"]] | None, config: Any, norm: nn.Module
) -> Float[Tensor, "b blocks d"] | None:
    """Of the class tokens that all blocks gave those that the head reads before the last, behind the norm."""
    return norm(torch.stack(list(given[-blocks(config) : -1]), dim=1)) if given else None
