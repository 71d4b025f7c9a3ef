"""Reads preprocessing settings from timm's pretrained_cfg."""

from collections.abc import Mapping
from math import floor
from typing import Any, Final, get_args

from vitkit.data.processor.geometry import Interpolation
from vitkit.data.processor.normalization import IMAGENET_MEAN, IMAGENET_STD, for_channels

#: Default of timm.
_CROP_FRACTION: Final = 0.875
_KEYS: Final = ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")


def read(pretrained_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `Processor` fields that reproduce timm's evaluation transform.

    That is `timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=...))`. Raises ValueError for a
    config without any of the keys and for unsupported values.
    """
    cfg = pretrained_cfg.get("pretrained_cfg", pretrained_cfg)
    if not any(key in cfg for key in _KEYS):
        raise ValueError(f"a pretrained_cfg must contain one of {', '.join(_KEYS)}; got {', '.join(cfg) or 'nothing'}")
    channels, rows, columns = cfg.get("input_size") or (3, 224, 224)
    fraction = cfg.get("crop_pct") or _CROP_FRACTION
    mode, interpolation = cfg.get("crop_mode") or "center", cfg.get("interpolation") or "bicubic"
    if interpolation not in get_args(Interpolation):
        raise ValueError(f"interpolation must be one of {list(get_args(Interpolation))}, got {interpolation!r}")
    # timm saves the RGB statistics of a model that was created with other `in_chans`.
    mean = for_channels(tuple(cfg.get("mean") or IMAGENET_MEAN), channels)
    std = for_channels(tuple(cfg.get("std") or IMAGENET_STD), channels)
    to = floor(rows / fraction), floor(columns / fraction)
    how: dict[str, Any] = {"resize_to": to, "fill": (0,) * channels}
    if mode == "center":
        how |= {"resize": "shortest", "resize_to": to[0] if to[0] == to[1] else to}
    elif mode == "squash":
        how["resize"] = "squash"
    elif mode == "border":
        how |= {"resize": "longest", "fill": tuple(round(255 * value) for value in mean)}
    else:
        raise ValueError(f"crop_mode must be 'center', 'squash' or 'border', got {mode!r}")
    return {
        "size": (rows, columns),
        "interpolation": interpolation,
        "center_crop": "torchvision",
        "mean": mean,
        "std": std,
        "profile": "ignore",  # timm does not convert embedded profiles
        **how,
    }
