"""Reads every version of transformers' `preprocessor_config.json`, and writes files that all versions can read.

Versions: `feature_extractor_type` with integer sizes and without `do_rescale` (v4 before 2023), slow and fast image
processors of v4 (the latter with many nulls), v5, and `processor_config.json` with settings under `image_processor`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from vitkit.data.processor.geometry import Interpolation, Size
from vitkit.data.processor.normalization import CLIP_MEAN, CLIP_STD, HALF, IMAGENET_MEAN, IMAGENET_STD

#: Filters of Pillow by number.
_RESAMPLE: Final[dict[int, Interpolation]] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}
_SQUASH: Final = {"do_center_crop": False, "size": {"height": 224, "width": 224}, "resample": 3}
_SHORTEST: Final = {"do_center_crop": True, "size": {"shortest_edge": 224}, "crop_size": 224, "resample": 3}
_CLIP: Final = _SHORTEST | {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}
_CROPPED: Final = {"do_center_crop": True, "size": {"height": 256, "width": 256}, "crop_size": 224, "resample": 3}
_ALWAYS: Final = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}

#: Defaults of the image processors of transformers for missing settings.
_DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "ViT": _SQUASH | {"resample": 2, "image_mean": HALF, "image_std": HALF},
    "DeiT": _CROPPED | {"image_mean": HALF, "image_std": HALF},
    "Beit": _SQUASH | {"image_mean": HALF, "image_std": HALF},
    "Siglip": _SQUASH | {"image_mean": HALF, "image_std": HALF},
    "DINOv3ViT": _SQUASH | {"resample": 2, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD},
    "CLIP": _CLIP,
    "Bit": _CLIP,
    "ConvNext": _SQUASH
    | {"size": {"shortest_edge": 384}, "crop_pct": 224 / 256, "image_mean": HALF, "image_std": HALF},
}
#: Classes for which an integer size is the length of the short side.
_SHORT_SIDE: Final = ("CLIP", "Bit", "ConvNext")
#: `ConvNextImageProcessor` crops images below this size, and squashes them otherwise.
_CROPPED_BELOW: Final = 384
#: Steps of transformers that are off if their value is null; without a value they have the default of the class.
_SWITCHES: Final = ("do_resize", "do_rescale", "do_normalize")
#: Steps that `Processor` supports, and steps that do not change pixels.
_KNOWN_STEPS: Final = frozenset({"do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_convert_rgb"})
_HARMLESS_STEPS: Final = frozenset({"do_reduce_labels"})


def _kind(config: Mapping[str, object]) -> str:
    """Returns the model family in a class name, such as "ViT" for ViTImageProcessorFast."""
    name = config.get("image_processor_type") or config.get("feature_extractor_type") or "ViTImageProcessor"
    return re.sub(r"(ImageProcessor|FeatureExtractor)\w*$", "", str(name))


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a config file. Missing and null settings get the defaults of the processor class."""
    kind = _kind(config)
    stated = {key: value for key, value in config.items() if value is not None}
    stated |= {key: False for key in _SWITCHES if key in config and config[key] is None}
    unsupported = [
        key
        for key, value in stated.items()
        if key.startswith("do_") and value and key not in _KNOWN_STEPS | _HARMLESS_STEPS
    ]
    if "crop_pct" in stated and kind != "ConvNext":
        unsupported.append("crop_pct")
    if unsupported:
        raise ValueError(f"the image processor has unsupported steps: {', '.join(sorted(unsupported))}")
    settings = _ALWAYS | _DEFAULTS.get(kind, {}) | stated
    wanted = ("size", "resample", "image_mean", "image_std", "do_center_crop")
    if missing := [key for key in wanted if key not in settings]:
        raise ValueError(
            f"{kind}ImageProcessor is unknown, so its defaults are unknown too; the file must contain "
            f"{', '.join(missing)}"
        )
    return settings


def _size(value: object, name: str) -> Size:
    """Returns (height, width) of a size in any format of transformers."""
    match value:
        case int():
            return value, value
        case {"height": int(rows), "width": int(columns)}:
            return rows, columns
        case [int(rows), int(columns)]:
            return rows, columns
        case _:
            raise ValueError(f"{name} must be an integer or have height and width, got {value!r}")


def _resize_fields(settings: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Returns the `Processor` fields that determine the resizing."""
    size = settings["size"]
    if isinstance(size, Mapping):
        size = {key: value for key, value in size.items() if value is not None}
    if not settings["do_resize"]:
        return {"resize": "none"}
    resample = settings["resample"]
    if resample not in _RESAMPLE or isinstance(resample, bool):
        raise ValueError(f"resample must be one of {sorted(_RESAMPLE)} (filters of Pillow), got {resample!r}")
    if isinstance(size, int) and kind in _SHORT_SIDE:
        size = {"shortest_edge": size}
    interpolation = _RESAMPLE[resample]
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        return {"resize": "shortest", "resize_to": int(size["shortest_edge"]), "interpolation": interpolation}
    return {"resize": "squash", "resize_to": _size(size, "size"), "interpolation": interpolation}


def _convnext(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces `crop_pct` of `ConvNextImageProcessor` with the size and crop that it stands for.

    Below 384 pixels, the short side is resized to size / crop_pct and the center is cropped; larger images are
    squashed. Raises ValueError for a size without `shortest_edge`, an invalid `crop_pct` or a second crop.
    """
    size, fraction = settings["size"], settings["crop_pct"]
    edge = size.get("shortest_edge") if isinstance(size, Mapping) else size
    if type(edge) is not int or edge < 1:
        raise ValueError(f"size must contain 'shortest_edge' for ConvNextImageProcessor, got {size!r}")
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 1e-6 < fraction <= 1:
        raise ValueError(f"crop_pct must be above 0 and at most 1, got {fraction!r}")
    square = {"height": edge, "width": edge}
    if edge >= _CROPPED_BELOW or not settings["do_resize"]:
        return {**settings, "size": square}
    if settings["do_center_crop"] and _size(settings.get("crop_size"), "crop_size") != (edge, edge):
        raise ValueError(
            f"ConvNextImageProcessor crops to its size {edge}; crop_size {settings['crop_size']!r} would be a second "
            "crop: set do_center_crop to false"
        )
    short = {"shortest_edge": int(edge / fraction)}
    return {**settings, "size": short, "do_center_crop": True, "crop_size": square}


def _numbers(value: float | Sequence[float], channels: int) -> tuple[float, ...]:
    return (float(value),) * channels if isinstance(value, int | float) else tuple(float(number) for number in value)


def read(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the `Processor` fields in a preprocessor_config.json, including those under the key "vitkit".

    Raises ValueError that names the setting.
    """
    if isinstance(config.get("image_processor"), Mapping):
        config = config["image_processor"]
    settings, kind = _settings(config), _kind(config)
    if kind == "ConvNext":
        settings = _convnext(settings)
    how = _resize_fields(settings, kind)
    if settings["do_center_crop"]:
        size = _size(settings.get("crop_size"), "crop_size")
    elif how["resize"] == "none" and isinstance(settings["size"], Mapping) and "shortest_edge" in settings["size"]:
        # It has no effect on the pixels, because nothing resizes them.
        size = _size(settings["size"]["shortest_edge"], "size")
    else:
        size = _size(how.get("resize_to", settings["size"]), "size")
    normalize = settings["do_normalize"]
    mean = _numbers(settings["image_mean"], 3)
    std = _numbers(settings["image_std"], len(mean))
    found = {
        "size": size,
        "center_crop": "huggingface" if settings["do_center_crop"] else "none",
        "fill": (0,) * len(mean),
        "rescale": float(settings["rescale_factor"]) if settings["do_rescale"] else 1.0,
        "mean": mean if normalize else (0.0,) * len(mean),
        "std": std if normalize else (1.0,) * len(mean),
        "profile": "ignore",  # transformers does not convert embedded profiles
        **how,
    }
    return found, dict(config.get("vitkit") or {})


def _nearest_size(settings: Mapping[str, Any]) -> dict[str, int]:
    """Returns the `size` setting for transformers that is equal or nearest to the processor's."""
    to = settings["size"] if settings["resize_to"] is None else settings["resize_to"]
    if settings["resize"] == "shortest":
        return {"shortest_edge": to if isinstance(to, int) else max(to)}
    rows, columns = (to, to) if isinstance(to, int) else to
    return {"height": rows, "width": columns}


def written_type(kind: str, size: Mapping[str, object], *, crops: bool, converts: bool) -> str:
    """Returns the name of the image processor for a file that transformers 4 and 5 process equally.

    `kind` is the family of the preferred class, such as "ViT". The slow processor of transformers 4 for ViT neither
    keeps the aspect ratio nor crops, and that of DeiT has no conversion to RGB; `BitImageProcessor` has all of them.
    """
    keeps_ratio = "shortest_edge" in size
    if kind in ("ViT", "DINOv3ViT") and (keeps_ratio or crops):
        kind = "DeiT" if not keeps_ratio and not converts else "Bit"
    elif kind in ("DeiT", "Beit") and keeps_ratio:
        kind = "Bit"
    return f"{kind}ImageProcessor"


def convnext(settings: Mapping[str, Any]) -> dict[str, object] | None:
    """Returns the content of a preprocessor_config.json for a ConvNext processor, or None if it has other steps."""
    (rows, columns), to = settings["size"], settings["resize_to"]
    crops = settings["center_crop"] != "none"
    if rows != columns or crops != (rows < _CROPPED_BELOW):
        return None
    if crops and settings["resize"] == "shortest" and isinstance(to, int):
        fractions = [each for each in (rows / to, rows / (to + 0.5)) if each <= 1 and int(rows / each) == to]
    else:
        fractions = [] if crops or settings["resize"] != "squash" or to is not None else [224 / 256]
    if not fractions:
        return None
    config = {name: value for name, value in write(settings).items() if name not in ("do_center_crop", "crop_size")}
    return config | {
        "crop_pct": fractions[0],
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": rows},
    }


def write(settings: Mapping[str, Any]) -> dict[str, object]:
    """Returns the content of a preprocessor_config.json. `Processor` fields that transformers lacks are left out."""
    rows, columns = settings["size"]
    crops, converts, size = settings["center_crop"] != "none", len(settings["mean"]) == 3, _nearest_size(settings)
    config: dict[str, object] = {
        "do_center_crop": crops,
        "do_convert_rgb": converts,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": settings["resize"] != "none",
        "image_mean": list(settings["mean"]),
        "image_processor_type": written_type("ViT", size, crops=crops, converts=converts),
        "image_std": list(settings["std"]),
        "resample": next(key for key, name in _RESAMPLE.items() if name == settings["interpolation"]),
        "rescale_factor": settings["rescale"],
        "size": size,
    }
    if crops:
        config["crop_size"] = {"height": rows, "width": columns}
    return config
