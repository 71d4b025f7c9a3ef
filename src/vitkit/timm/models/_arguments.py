"""Binds the arguments of timm's model classes. Each class has a frozen dataclass of its arguments, in timm's order."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch

from vitkit.config import nearest
from vitkit.timm.layers import LayerType, to_2tuple

Arguments = TypeVar("Arguments")


@dataclasses.dataclass(frozen=True)
class Shared:
    """Arguments that all ViT classes of timm have."""

    img_size: int | tuple[int, int] = 224
    patch_size: int | tuple[int, int] = 16
    in_chans: int = 3
    num_classes: int = 1000
    global_pool: str = "token"
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    init_values: float | None = None
    drop_rate: float = 0.0
    pos_drop_rate: float = 0.0
    patch_drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    norm_layer: LayerType | None = None
    norm_eps: float = 1e-6
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None

    @property
    def layer_scale(self) -> float | None:
        """Initial value of LayerScale, or None without LayerScale."""
        return float(self.init_values) if self.init_values else None

    @property
    def mlp_width(self) -> int:
        """Width of the MLP's hidden layer."""
        return int(self.embed_dim * self.mlp_ratio)

    def sizes(self) -> dict[str, Any]:
        """Returns the fields of the vitkit config for image size, patch size, widths and the like."""
        return {
            "image_size": to_2tuple(self.img_size),
            "patch_size": to_2tuple(self.patch_size),
            "channels": self.in_chans,
            "width": self.embed_dim,
            "depth": self.depth,
            "num_heads": self.num_heads,
            "mlp_width": self.mlp_width,
            "num_classes": self.num_classes,
            "stochastic_depth": float(self.drop_path_rate),
            "dropout": float(self.proj_drop_rate),
            "attention_dropout": float(self.attn_drop_rate),
        }


def bind(
    cls: type[Arguments],
    owner: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    fixed: Mapping[str, tuple[Any, ...]],
) -> Arguments:
    """Binds positional and keyword arguments to the argument dataclass of a model class.

    `fixed` are timm's arguments that vitkit accepts only with the given values. Raises TypeError for unknown
    arguments, and ValueError for arguments that vitkit does not support.
    """
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if len(args) > len(names):
        raise TypeError(f"{owner} takes at most {len(names)} positional arguments; {len(args)} were given")
    given = dict(zip(names, args, strict=False))
    if twice := given.keys() & kwargs.keys():
        raise TypeError(f"{owner} got multiple values for argument {sorted(twice)[0]!r}")
    given |= kwargs
    for name, value in given.items():
        if name in fixed:
            if value is not None and value not in fixed[name]:
                shown = getattr(value, "__name__", repr(value))
                raise ValueError(
                    f"{owner}: {name}={shown} is not supported by vitkit; expected "
                    f"{' or '.join(map(repr, fixed[name]))}, or use timm for this model"
                )
        elif name not in names:
            raise TypeError(f"{owner} got an unexpected keyword argument '{name}'{nearest(name, [*names, *fixed])}")
    return cls(**{name: value for name, value in given.items() if name in names})
