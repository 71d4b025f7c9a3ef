"""Preprocessing settings of a model, from its `pretrained_cfg` and from arguments."""

import logging
from typing import Any

from vitkit.config import Json, JsonDict
from vitkit.timm.data.constants import (
    DEFAULT_CROP_MODE,
    DEFAULT_CROP_PCT,
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
)

_logger = logging.getLogger(__name__)


def resolve_data_config(
    args: Json | None = None,
    pretrained_cfg: Json | None = None,
    model: Any = None,
    use_test_size: bool = False,
    verbose: bool = False,
) -> JsonDict:
    """Returns input_size, interpolation, mean, std, crop_pct and crop_mode, for `create_transform`.

    `args` come first, then `pretrained_cfg` (by default that of the model), then timm's defaults. `use_test_size`
    selects the size and crop for evaluation if they differ. Raises AssertionError if all three are missing, and for
    invalid sizes and statistics.
    """
    if not (model or args or pretrained_cfg):
        raise AssertionError("At least one of model, args, or pretrained_cfg required for data config.")
    args = {key: value for key, value in (args or {}).items() if value is not None}
    cfg: Json = pretrained_cfg or getattr(model, "pretrained_cfg", None) or {}
    channels, size = _input_size(args, cfg, use_test_size=use_test_size)
    crop = (use_test_size and cfg.get("test_crop_pct")) or cfg.get("crop_pct")
    config = {
        "input_size": size,
        "interpolation": args.get("interpolation") or cfg.get("interpolation") or "bicubic",
        "mean": _statistics(args, cfg, "mean", channels, IMAGENET_DEFAULT_MEAN),
        "std": _statistics(args, cfg, "std", channels, IMAGENET_DEFAULT_STD),
        "crop_pct": args.get("crop_pct") or crop or DEFAULT_CROP_PCT,
        "crop_mode": args.get("crop_mode") or cfg.get("crop_mode") or DEFAULT_CROP_MODE,
    }
    if verbose:
        _logger.info("Data processing configuration for current model + dataset:")
        for name, value in config.items():
            _logger.info("\t%s: %s", name, value)
    return config


def resolve_model_data_config(
    model: Any,
    args: Json | None = None,
    pretrained_cfg: Json | None = None,
    use_test_size: bool = False,
    verbose: bool = False,
) -> JsonDict:
    """Returns the preprocessing settings of a model. See `resolve_data_config`."""
    options: JsonDict = {"use_test_size": use_test_size, "verbose": verbose}
    return resolve_data_config(args=args, pretrained_cfg=pretrained_cfg, model=model, **options)


def _input_size(args: Json, cfg: Json, *, use_test_size: bool) -> tuple[int, tuple[int, ...]]:
    """Returns the number of channels that mean and std in `args` may have, and the size (channels, height, width)."""
    channels = args.get("in_chans", args.get("chans", 3))
    if "input_size" in args:
        size = args["input_size"]
        if not isinstance(size, tuple | list) or len(size) != 3:
            raise AssertionError(f"input_size is {size!r}; expected (channels, height, width)")
        return size[0], tuple(size)
    if "img_size" in args:
        side = args["img_size"]
        if not isinstance(side, int):
            raise AssertionError(f"img_size is {side!r}; expected an integer; for other sizes, pass input_size")
        return channels, (channels, side, side)
    size = (use_test_size and cfg.get("test_input_size")) or cfg.get("input_size") or (channels, 224, 224)
    return channels, tuple(size)


def _statistics(args: Json, cfg: Json, name: str, channels: int, default: tuple[float, ...]) -> tuple[float, ...]:
    if name not in args:
        return tuple(cfg.get(name) or default)
    values = tuple(args[name])
    if len(values) not in (1, channels):
        raise AssertionError(f"{name} has {len(values)} values; expected 1 or one per channel, {channels}")
    return values * channels if len(values) == 1 else values
