"""`BaseImageProcessor` and `ViTImageProcessor`, bitwise equal to transformers' PIL image processors."""

import copy
import json
import math
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from vitkit import atomic
from vitkit.config import Json, JsonDict, nearest
from vitkit.data.processor import ImageInput, Processor, named
from vitkit.data.processor.huggingface import written_type
from vitkit.images import DEFAULT_LIMITS, Channels, Limits, as_array, find_bands, find_channels, is_tensor
from vitkit.transformers import hub
from vitkit.transformers.batch import BatchFeature, Images, count_channels, iterate_images, parse_layout, resize_rgba
from vitkit.transformers.hub import Argument
from vitkit.transformers.image_steps import ImageSteps
from vitkit.transformers.recognition import rebuild, recognized_class

# The settings of every class, with the defaults of ViTImageProcessor.
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
STEPS = ("do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
CROP = ("do_center_crop", "crop_size")
TENSORS = ("return_tensors", "data_format", "input_data_format")
# Steps that are off if they are None, as in transformers; the other settings then have their defaults.
SWITCHES = ("do_resize", "do_rescale", "do_normalize", "do_center_crop")
# Keys of preprocessor_config.json that have no effect here.
IGNORED = ("image_processor_type", "feature_extractor_type", "processor_class", "_valid_processor_keys", "backend")
# Keys of preprocessor_config.json that some classes do not have as settings.
OPTIONAL = ("crop_pct", "do_reduce_labels")
# Arguments of `from_pretrained` that choose between the processors of transformers; here there is one.
CHOICES = ("use_fast", "backend", "_from_auto", "_from_pipeline")
SIDES = ("height", "width", "shortest_edge", "longest_edge", "max_height", "max_width")


class SizeDict(dict[str, int]):
    """A dict of side lengths whose keys are also attributes, such as `size.height`. Missing sides are None."""

    def __getattr__(self, name: str) -> int | None:
        if name not in SIDES:
            raise AttributeError(f"a size has no '{name}'; its sides are {', '.join(SIDES)}")
        return self.get(name)


class BaseImageProcessor(ImageSteps):
    """Resizes, crops, rescales, normalizes and pads images. Every setting can be overridden in a call.

    Inputs are the images that `vitkit.images.to_rgb` accepts (every PIL mode, integers of any depth, floats from 0 to 1
    or 0 to 255, channels first or last), paths and URLs. Images in memory keep their 4 channels if `image_mean` has
    four values, and any number of channels if it is a single number. `limits` (`vitkit.Limits`), an attribute that is
    not saved, bounds the size of image files. Raises TypeError for an unknown setting. Raises ValueError for invalid
    values, and for invalid images, which it names by path or index.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values"]
    backend: ClassVar[str] = "pil"
    # The family in the name of the class of transformers.
    family: ClassVar[str]
    # Settings that differ from `DEFAULTS`, or that only this class has.
    defaults: ClassVar[Mapping[str, Argument]] = {}
    # Positional arguments of the class and of a call in transformers 4.
    arguments: ClassVar[tuple[str, ...]] = (*STEPS, "do_convert_rgb")
    call_arguments: ClassVar[tuple[str, ...]] = (*STEPS, *TENSORS, "do_convert_rgb")
    limits: Limits = DEFAULT_LIMITS

    do_resize: bool | None
    size: SizeDict
    resample: int
    do_rescale: bool | None
    rescale_factor: float
    do_normalize: bool | None
    image_mean: list[float] | float
    image_std: list[float] | float
    do_convert_rgb: bool | None
    do_center_crop: bool | None
    crop_size: SizeDict | None
    data_format: str

    def __init__(self, *args: Argument, **kwargs: Argument):
        given = _positional(args, self.arguments, type(self).__name__) | kwargs
        self.extra = {name: given.pop(name) for name in ("vitkit",) if name in given}
        defaults = self.settings()
        check_names([name for name in given if name not in IGNORED], type(self).__name__, defaults)
        given = {"default_to_square": defaults["default_to_square"]} | given
        for name, default in defaults.items():
            value = given.get(name)
            if value is None and not (name in SWITCHES and name in given):
                value = copy.deepcopy(default)
            setattr(self, name, _convert_setting(name, value, given))

    @property
    def __class__(self) -> type["BaseImageProcessor"]:  # type: ignore[override]
        """The class. If transformers is imported, a subclass that also inherits from its `BaseImageProcessor`."""
        return recognized_class(type(self), "transformers.image_processing_utils", "BaseImageProcessor")

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (type(self), self.__dict__)

    @classmethod
    def settings(cls) -> dict[str, Argument]:
        """Returns the names and defaults of the settings of this class."""
        return DEFAULTS | dict(cls.defaults)

    def __call__(self, images: Images, *args: Argument, **kwargs: Argument) -> BatchFeature:
        """Calls `preprocess`."""
        return self.preprocess(images, *args, **kwargs)

    def preprocess(self, images: Images, *args: Argument, **kwargs: Argument) -> BatchFeature:
        """Processes images. Returns `pixel_values`, a list of arrays (c, h, w).

        If `return_tensors` is set, they are stacked to one array (b, c, h, w).
        """
        settings = self._settings_of_call(_positional(args, self.call_arguments, "preprocess") | kwargs)
        arrays = self._arrays(images, settings)
        batch = BatchFeature({"pixel_values": arrays}, settings["return_tensors"])
        return batch if settings["device"] is None else batch.to(device=settings["device"])

    def _settings_of_call(self, given: Mapping[str, Argument]) -> dict[str, Argument]:
        given = dict(given)
        check_names(given, "preprocess", self.settings())
        settings = {name: getattr(self, name) for name in self.settings()}
        changes = {name: value for name, value in given.items() if value is not None}
        return settings | {name: _convert_setting(name, value, settings | given) for name, value in changes.items()}

    def _arrays(self, images: Images, settings: Mapping[str, Argument]) -> list[np.ndarray]:
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
        return arrays

    def _process(self, image: ImageInput, settings: Mapping[str, Argument]) -> list[np.ndarray]:
        """Converts one image, or one array with a batch of images, to a list of arrays (c, h, w)."""
        channels = parse_layout(settings["input_data_format"], "input_data_format")
        settings = _with_statistics(image, channels, settings)
        count = len(settings["image_mean"])
        steps = {name: settings[name] for name in self._steps()}
        in_memory = is_tensor(image) or isinstance(image, np.ndarray)
        values = as_array(image) if in_memory else None
        if values is not None and np.issubdtype(values.dtype, np.floating):
            if not (settings["do_resize"] or settings["do_center_crop"]):
                return _process_floats(values, channels, is_tensor(image), settings)
            if not settings["do_rescale"] and values.size and values.max() <= 1:
                # Values are 0 to 1 already: resizing works on 0 to 255, so rescale afterwards.
                steps |= {"do_rescale": True, "rescale_factor": 1 / 255}
        processor = self.processor(**steps)
        as_bytes = not steps["do_rescale"] and not steps["do_normalize"]
        if values is not None and values.ndim == 4 and count != 4:
            arrays = list(np.asarray(processor(image, channels=channels)))
        elif count == 4 and (in_memory or isinstance(image, Image.Image)):
            arrays = resize_rgba(image, processor, channels)
        elif in_memory:
            arrays = [processor.array(image, channels=channels)]
        else:
            arrays = [processor.array(image, limits=self.limits)]
        return [array.astype(np.uint8) for array in arrays] if as_bytes else arrays

    def _steps(self) -> tuple[str, ...]:
        """Returns the names of the settings that affect the pixel values."""
        return (*STEPS, *CROP, *(name for name in ("crop_pct",) if name in self.defaults))

    def processor(self, **changes: object) -> Processor:
        """Returns a `vitkit.Processor` with the settings of this processor. `changes` replace settings."""
        settings = {name: getattr(self, name) for name in self._steps()} | self.extra | changes
        settings |= {name: bool(settings[name]) for name in SWITCHES}
        return _processor(json.dumps(settings | {"image_processor_type": f"{self.family}ImageProcessor"}))

    def with_settings(self, changes: Mapping[str, Argument]) -> "BaseImageProcessor":
        """Returns a copy with other settings. Raises TypeError for an unknown setting."""
        changed = copy.copy(self)
        for name, value in self._settings_of_call(changes).items():
            setattr(changed, name, value)
        return changed

    def to_dict(self) -> JsonDict:
        """Returns the content of preprocessor_config.json.

        The class named there is one that processes images equally in transformers 4 and 5: `BitImageProcessor` if a
        `ViTImageProcessor` keeps the aspect ratio or crops.
        """
        transient = ("device", "disable_grouping", "default_to_square", "input_data_format", "return_tensors")
        defaults = self.settings()
        named = {name: getattr(self, name) for name in defaults if name not in transient}
        if self.data_format == defaults["data_format"]:
            del named["data_format"]
        saved = {name: dict(value) if isinstance(value, dict) else value for name, value in named.items()}
        saved = {name: value for name, value in saved.items() if value is not None or defaults[name] is not None}
        kind = written_type(
            self.family, self.size, crops=bool(self.do_center_crop), converts=self.do_convert_rgb is not False
        )
        return dict(sorted((saved | self.extra | {"image_processor_type": kind}).items()))

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
        data, rest = cls.get_image_processor_dict(pretrained_model_name_or_path, **kwargs)
        for name in CHOICES:
            rest.pop(name, None)
        return cls.from_dict(data, **rest)

    @classmethod
    def get_image_processor_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Argument
    ) -> tuple[JsonDict, dict[str, Argument]]:
        """Returns the content of preprocessor_config.json, and the `kwargs` that are not download options."""
        location, rest = hub.locate(pretrained_model_name_or_path, kwargs)
        return location.read_json("preprocessor_config.json", "processor_config.json"), rest

    @classmethod
    def from_dict(cls, image_processor_dict: Json, return_unused_kwargs: bool = False, **kwargs: Argument) -> Any:
        """Creates a processor from the content of a config file. `kwargs` replace settings.

        The center crop is that of transformers, also in a file of vitkit that states another rounding for the same
        crop. Returns (processor, unused kwargs) if `return_unused_kwargs`. Raises ValueError for unsupported steps.
        """
        inner = image_processor_dict.get("image_processor")
        data = inner if isinstance(inner, Mapping) else image_processor_dict
        defaults = cls.settings()
        if data.get("crop_pct") is not None and "crop_pct" not in defaults:
            # The file is that of a ConvNextImageProcessor: keep the pixels that it describes.
            data = Processor.from_huggingface(data).to_huggingface()
        unused = {name: kwargs.pop(name) for name in list(kwargs) if return_unused_kwargs and name not in defaults}
        known = {name: value for name, value in data.items() if name in (*defaults, *IGNORED, "vitkit")}
        others = [name for name in data if name not in known and name not in OPTIONAL]
        if steps := sorted(name for name in others if name.startswith("do_") and data[name]):
            raise ValueError(f"the file enables steps that {cls.__name__} does not support: {', '.join(steps)}")
        if isinstance(own := known.pop("vitkit", None), Mapping):
            known |= {"vitkit": more} if (more := {key: own[key] for key in own if key != "center_crop"}) else {}
        processor = cls(**known | kwargs)
        return (processor, unused) if return_unused_kwargs else processor

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> Any:
        """Loads the processor from a JSON file."""
        return cls.from_dict(hub.read_json(Path(json_file)))

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


class ViTImageProcessor(BaseImageProcessor):
    """Image processor of ViT: resizes to 224 x 224 pixels without keeping the aspect ratio, and scales to -1..1."""

    family = "ViT"


def check_names(names: Iterable[str], where: str, known: Iterable[str]) -> None:
    """Raises TypeError if a setting has an unknown name."""
    known = list(known)
    for name in names:
        if name not in known:
            raise TypeError(f"{where} has no setting '{name}'{nearest(name, known)}")


def _positional(args: tuple[Argument, ...], names: tuple[str, ...], where: str) -> dict[str, Argument]:
    if args[len(names) :]:
        raise TypeError(f"{where} takes {len(names)} positional arguments ({', '.join(names)}), got {len(args)}")
    return dict(zip(names, args, strict=False))


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


def _with_statistics(
    image: ImageInput, channels: Channels | None, settings: Mapping[str, Argument]
) -> dict[str, Argument]:
    """Returns the settings, with one value per channel in mean and std. Single numbers are repeated."""
    mean, std = settings["image_mean"], settings["image_std"]
    lengths = [len(value) for value in (mean, std) if not isinstance(value, int | float)]
    count = lengths[0] if lengths else 3 if settings["do_convert_rgb"] else count_channels(image, channels)
    mean, std = ([value] * count if isinstance(value, int | float) else value for value in (mean, std))
    return {**settings, "image_mean": mean, "image_std": std}


def _find_axis(shape: tuple[int, ...], count: int, channels: Channels | None, is_torch: bool) -> Channels:
    if count in (1, 3):
        return find_channels(shape, channels, is_torch)
    return find_bands(shape, count, channels, is_torch=is_torch)


def _process_floats(
    values: np.ndarray, channels: Channels | None, is_torch: bool, settings: Mapping[str, Argument]
) -> list[np.ndarray]:
    """Rescales and normalizes float images, without resizing and without rounding to 8 bits."""
    if values.ndim == 4:
        return [array for image in values for array in _process_floats(image, channels, is_torch, settings)]
    if values.ndim == 2:
        values = values[None]
    elif _find_axis(values.shape, len(settings["image_mean"]), channels, is_torch) == "last":
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
    sides: list[Any] = [(size or largest).get(side) for side in ("height", "width")]
    limit = DEFAULT_LIMITS.max_pixels
    if not all(type(side) is int for side in sides) or math.prod(sides) > limit:
        raise ValueError(
            f"pad_size is {str(dict(size or {}))[:80]}; expected height and width, at most {limit:,} pixels"
        )
    rows, columns = sides[0] - array.shape[1], sides[1] - array.shape[2]
    if rows < 0 or columns < 0:
        raise ValueError(f"pad_size {dict(size or {})} is smaller than an image of size {array.shape[1:]}")
    return np.pad(array, ((0, 0), (0, rows), (0, columns)))
