"""Which tokens the head of a ViT reads: what a config says of them, checked, and how wide they are together."""

from typing import Any


def check(config: Any) -> None:
    """ValueError for a pool that reads what there is not, and for norms that do not go with it."""
    pool, norm, blocks = config.pool, config.norm, config.pool_blocks
    if "token" in pool and not config.class_token:
        raise ValueError(f"pool='{pool}' reads the class token, but there is none; pool can be 'gap' or 'map'")
    if pool == "none" and norm == "pooled":
        raise ValueError("norm='pooled' needs a pool, but pool is 'none'")
    if not 1 <= blocks <= config.depth:
        raise ValueError(f"pool_blocks is {blocks}; it is 1 to {config.depth}, the blocks there are")
    if blocks > 1 and ("token" not in pool or norm == "pooled"):
        given = f"pool='{pool}' and norm='{norm}'"
        raise ValueError(f"pool_blocks={blocks} reads class tokens behind the final norm, which {given} do not")


def width(config: Any) -> int:
    """The width of what is pooled: that of a token for each that stands beside another."""
    return config.width * (getattr(config, "pool_blocks", 1) + (config.pool == "token+gap"))
