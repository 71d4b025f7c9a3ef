"""Binds the arguments of timm's model classes. Each class has a frozen dataclass of its arguments, in timm's order."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args, get_type_hints

import torch

from vitkit.config import convert, nearest
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


def check_saved(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Validates model arguments that were read from a JSON file, and converts lists to tuples.

    `cls` is the dataclass of the arguments. An argument is left unchanged if `cls` has no such field, or if JSON cannot
    represent the type of the field. Raises ValueError for a value of the wrong type, a negative number, and a rate
    above 1.
    """
    hints = get_type_hints(cls)
    checked = dict(values)
    for name, value in values.items():
        if value is None or name not in hints or not _is_json(hints[name]):
            continue
        checked[name] = convert(value, hints[name], name)
        numbers = checked[name] if isinstance(checked[name], tuple) else (checked[name],)
        if any(isinstance(number, int | float) and number < 0 for number in numbers):
            raise ValueError(f"{name} is {value}; it must not be negative")
        if name.endswith("_rate") and checked[name] > 1:
            raise ValueError(f"{name} is {value}; expected a number from 0 to 1")
    return checked


def _is_json(hint: Any) -> bool:
    """Returns whether JSON can represent the values of a type hint."""
    parts = get_args(hint)
    return hint in (int, float, bool, str, type(None), ...) or (bool(parts) and all(_is_json(part) for part in parts))


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
            raise TypeError(
                f"{owner} got an unexpected keyword argument '{name}'{nearest(name, dict.fromkeys([*names, *fixed]))}"
            )
    return cls(**{name: value for name, value in given.items() if name in names})
