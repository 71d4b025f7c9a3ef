"""`ViTImageProcessor`, whose outputs are bitwise equal to those of transformers' PIL image processor."""

import copy
import json
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vitkit import atomic
from vitkit.config import Json, JsonDict, nearest
from vitkit.data.processor import ImageInput, Processor, named
from vitkit.images import DEFAULT_LIMITS, Channels, Limits, as_array, find_channels, is_tensor
from vitkit.transformers import hub
from vitkit.transformers.batch import BatchFeature, Images, iterate_images, parse_layout
from vitkit.transformers.hub import Argument

# All settings with their defaults, in the positional order of transformers 4.
DEFAULTS: dict[str, Argument] = {
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_convert_rgb": None,
    "do_center_crop": None,
    "crop_size": None,
    "do_pad": None,
    "pad_size": None,
    "default_to_square": None,
    "data_format": "channels_first",
    "input_data_format": None,
    "return_tensors": None,
    "device": None,
    "disable_grouping": None,
}
# Positional arguments of a call in transformers 4, after "images".
CALL_ARGUMENTS = [*list(DEFAULTS)[:8], "return_tensors", "data_format", "input_data_format", "do_convert_rgb"]
STEPS = ("do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
CROP = ("do_center_crop", "crop_size")
# Keys of preprocessor_config.json that have no effect here.
IGNORED = ("image_processor_type", "feature_extractor_type", "processor_class", "_valid_processor_keys", "backend")


class SizeDict(dict[str, int]):
    """A dict of side lengths whose keys are also attributes, such as `size.height`."""

    def __getattr__(self, name: str) -> int:
        if name not in self:
            raise AttributeError(f"the size has no '{name}'; it has {', '.join(self)}")
        return self[name]


class ViTImageProcessor:
    """Resizes, crops, rescales, normalizes and pads images. Each call can override every setting.

    Inputs are the images that `vitkit.images.to_rgb` accepts (every PIL mode, integers of any depth, floats from 0 to 1
    or 0 to 255, channels first or last), paths and URLs. `limits` (`vitkit.Limits`), an attribute that is not saved,
    bounds the size of image files. Raises TypeError for an unknown setting. Raises ValueError for invalid values, and
    for invalid images, which it names by path or index.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values"]
    backend: ClassVar[str] = "pil"
    limits: Limits = DEFAULT_LIMITS

    do_resize: bool
    size: SizeDict
    resample: int
    do_rescale: bool
    rescale_factor: float
    do_normalize: bool
    image_mean: list[float]
    image_std: list[float]
    do_center_crop: bool | None
    crop_size: SizeDict | None
    data_format: str

    def __init__(self, *args: Argument, **kwargs: Argument):
        given = dict(zip(DEFAULTS, args, strict=False)) | kwargs
        self.extra = {name: given.pop(name) for name in ("vitkit",) if name in given}
        check_names([name for name in given if name not in IGNORED], "ViTImageProcessor")
        for name, default in DEFAULTS.items():
            value = given.get(name)
            setattr(self, name, _convert_setting(name, copy.deepcopy(default) if value is None else value, given))

    def __call__(self, images: Images, *args: Argument, **kwargs: Argument) -> BatchFeature:
        """Calls `preprocess`."""
        return self.preprocess(images, *args, **kwargs)

    def preprocess(self, images: Images, *args: Argument, **kwargs: Argument) -> BatchFeature:
        """Processes images. Returns `pixel_values`, a list of arrays (c, h, w).

        If `return_tensors` is set, they are stacked to one array (b, c, h, w).
        """
        given = dict(zip(CALL_ARGUMENTS, args, strict=False)) | kwargs
        check_names(given, "preprocess")
        settings = {name: getattr(self, name) for name in DEFAULTS}
        settings |= {
            name: _convert_setting(name, value, settings | given) for name, value in given.items() if value is not None
        }
        arrays: list[np.ndarray] = []
        for index, image in enumerate(iterate_images(images)):
            try:
                arrays += self._process(image, settings)
            except (ValueError, TypeError) as error:
                raise (error if image is images else named(error, image, index)) from None
        if settings["do_pad"]:
            arrays = [_pad(array, settings["pad_size"], arrays) for array in arrays]
        if parse_layout(settings["data_format"], "data_format") == "last":
            arrays = [np.moveaxis(array, 0, -1) for array in arrays]
        batch = BatchFeature({"pixel_values": arrays}, settings["return_tensors"])
        return batch if settings["device"] is None else batch.to(device=settings["device"])

    def _process(self, image: ImageInput, settings: Mapping[str, Argument]) -> list[np.ndarray]:
        """Converts one image, or one array with a batch of images, to a list of arrays (c, h, w)."""
        channels = parse_layout(settings["input_data_format"], "input_data_format")
        steps = {name: settings[name] for name in (*STEPS, *CROP)}
        in_memory = is_tensor(image) or isinstance(image, np.ndarray)
        values = as_array(image) if in_memory else None
        if values is not None and np.issubdtype(values.dtype, np.floating):
            if not (settings["do_resize"] or settings["do_center_crop"]):
                return _process_floats(values, channels, is_tensor(image), settings)
            if not settings["do_rescale"] and values.size and values.max() <= 1:
                # Values are 0 to 1 already: resizing works on 0 to 255, so rescale afterwards.
                steps |= {"do_rescale": True, "rescale_factor": 1 / 255}
        processor = self.processor(**steps)
        arrays = (
            list(np.asarray(processor(image, channels=channels))) if values is not None and values.ndim == 4 else None
        )
        arrays = arrays or [
            processor.array(image, channels=channels) if in_memory else processor.array(image, limits=self.limits)
        ]
        as_bytes = not steps["do_rescale"] and not steps["do_normalize"]
        return [array.astype(np.uint8) for array in arrays] if as_bytes else arrays

    def processor(self, **changes: object) -> Processor:
        """Returns a `vitkit.Processor` with the settings of this processor. `changes` replace settings."""
        settings = {name: getattr(self, name) for name in (*STEPS, *CROP)} | self.extra | changes
        return _processor(json.dumps(settings))

    def to_dict(self) -> JsonDict:
        """Returns the content of preprocessor_config.json."""
        transient = ("device", "disable_grouping", "default_to_square", "input_data_format", "return_tensors")
        named = {name: getattr(self, name) for name in DEFAULTS if name not in transient}
        if self.data_format == DEFAULTS["data_format"]:
            del named["data_format"]
        saved = {name: dict(v) if isinstance(v, dict) else v for name, v in named.items() if v is not None}
        return dict(sorted((saved | self.extra | {"image_processor_type": "ViTImageProcessor"}).items()))

    def to_json_string(self) -> str:
        """Returns the text of preprocessor_config.json."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, path: str | os.PathLike[str]) -> None:
        """Writes the text of `to_json_string` to a file."""
        atomic.write_text(Path(path), self.to_json_string())

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **hub_options: Argument
    ) -> list[str]:
        """Writes preprocessor_config.json to a folder, which is created if needed. Returns a list with the path.

        If `push_to_hub`, uploads it with the options of `hub.push_folder`.
        """
        path = hub.make_folder(save_directory) / "preprocessor_config.json"
        self.to_json_file(path)
        if push_to_hub:
            hub.push_folder(path.parent, [path.name], **hub_options)
        return [str(path)]

    def push_to_hub(self, repo_id: str, **options: Argument) -> str:
        """Uploads preprocessor_config.json and returns the URL of the commit.

        Takes the options of `hub.push`.
        """
        return hub.push(self.save_pretrained, repo_id, **options)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Argument) -> Any:
        """Loads the processor from a folder, file or Hub id.

        `kwargs` are settings and those of `hub.locate`.
        """
        location, rest = hub.locate(pretrained_model_name_or_path, kwargs)
        rest.pop("use_fast", None)
        return cls.from_dict(location.read_json("preprocessor_config.json", "processor_config.json"), **rest)

    @classmethod
    def from_dict(cls, image_processor_dict: Json, return_unused_kwargs: bool = False, **kwargs: Argument) -> Any:
        """Creates a processor from the content of a config file. `kwargs` replace settings.

        Returns (processor, unused kwargs) if `return_unused_kwargs`. Raises ValueError for unsupported steps.
        """
        data = image_processor_dict.get("image_processor") or image_processor_dict
        unused = {name: kwargs.pop(name) for name in list(kwargs) if return_unused_kwargs and name not in DEFAULTS}
        known = {name: value for name, value in data.items() if name in (*DEFAULTS, *IGNORED, "vitkit")}
        if steps := sorted(
            name for name, value in data.items() if name not in known and name.startswith("do_") and value
        ):
            raise ValueError(f"the file enables steps that ViTImageProcessor does not support: {', '.join(steps)}")
        processor = cls(**known | kwargs)
        return (processor, unused) if return_unused_kwargs else processor

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> "ViTImageProcessor":
        """Loads the processor from a JSON file."""
        return cls.from_dict(hub.read_json(Path(json_file)))

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


def check_names(names: Iterable[str], where: str) -> None:
    """Raises TypeError if a setting has an unknown name."""
    for name in names:
        if name not in DEFAULTS:
            raise TypeError(f"{where} has no setting '{name}'{nearest(name, DEFAULTS)}")


@lru_cache(maxsize=64)
def _processor(settings: str) -> Processor:
    return Processor.from_huggingface(json.loads(settings))


def _convert_setting(name: str, value: Argument, settings: Mapping[str, Argument]) -> Argument:
    """Converts a setting to its stored type: sizes to `SizeDict`, mean and std to lists, filters to integers."""
    if name in ("size", "crop_size", "pad_size") and value is not None:
        if isinstance(value, int):
            square = name != "size" or settings.get("default_to_square") is not False
            value = {"height": value, "width": value} if square else {"shortest_edge": value}
        elif not isinstance(value, Mapping):
            value = dict(zip(("height", "width"), value, strict=True))
        return SizeDict({key: side for key, side in value.items() if side is not None})
    if name in ("image_mean", "image_std") and isinstance(value, tuple | np.ndarray):
        return [float(number) for number in value]
    return int(value) if name == "resample" and value is not None else value


def _process_floats(
    values: np.ndarray, channels: Channels | None, is_torch: bool, settings: Mapping[str, Argument]
) -> list[np.ndarray]:
    """Rescales and normalizes float images. They are not resized and not rounded to 8 bits."""
    if values.ndim == 4:
        return [array for image in values for array in _process_floats(image, channels, is_torch, settings)]
    if values.ndim == 2:
        values = values[None]
    elif find_channels(values.shape, channels, is_torch) == "last":
        values = np.moveaxis(values, -1, 0)
    if settings["do_rescale"]:
        white = 255.0 if values.size and values.max() <= 1 else 1.0
        values = (values.astype(np.float64) * (settings["rescale_factor"] * white)).astype(np.float32)
    if settings["do_normalize"]:
        mean, std = (np.asarray(settings[key], np.float32).reshape(-1, 1, 1) for key in ("image_mean", "image_std"))
        values = (values.astype(np.float32) - mean) / std
    return [values.astype(np.float32)]


def _pad(array: np.ndarray, size: Mapping[str, int] | None, batch: list[np.ndarray]) -> np.ndarray:
    """Pads images with zeros at the right and bottom, to a given size or to the largest image of the batch."""
    largest = {"height": max(each.shape[1] for each in batch), "width": max(each.shape[2] for each in batch)}
    rows, columns = (size or largest)["height"] - array.shape[1], (size or largest)["width"] - array.shape[2]
    if rows < 0 or columns < 0:
        raise ValueError(f"pad_size {dict(size or {})} is smaller than an image of size {array.shape[1:]}")
    return np.pad(array, ((0, 0), (0, rows), (0, columns)))
