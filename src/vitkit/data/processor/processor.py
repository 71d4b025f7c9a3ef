"""`Processor`: converts any image to the float32 array or tensor that the model expects."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import floor
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, get_args

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from vitkit.config import from_dict, to_dict
from vitkit.data.processor import fast, huggingface, timm
from vitkit.data.processor.geometry import (
    Crop,
    Interpolation,
    Resize,
    Size,
    resize_and_crop,
    resize_image,
    resized_size,
)
from vitkit.data.processor.inputs import ImageInput, each_image, split
from vitkit.data.processor.normalization import HALF, for_channels, normalize
from vitkit.images import (
    DEFAULT_LIMITS,
    AnyImage,
    Bands,
    Channels,
    ImageError,
    Limits,
    OpenOptions,
    Profile,
    Unlisted,
    describe,
    is_tensor,
    open_channels,
    open_rgb_pixels,
    to_channels,
    to_rgb,
)
from vitkit.text import printable

if TYPE_CHECKING:
    from torch import Tensor


class FileOptions(TypedDict, total=False):
    """Options for reading image files (see `vitkit.images.open_channels`). `data_range` also applies to arrays."""

    limits: Limits
    allow_truncated: bool
    data_range: float | None


class Options(FileOptions, total=False):
    """Options for preprocessing one image: those for image files, and the position of the channel axis in arrays."""

    channels: Channels | None


@dataclass(frozen=True, kw_only=True)
class Processor:
    """Resizes, crops and normalizes images. Results equal those of timm and transformers (with PIL) bit for bit.

    size           rows and columns of the model input
    resize         "squash": to `resize_to`, without keeping the aspect ratio; "shortest": short side to `resize_to`,
                   or if that is (rows, columns), the smallest size that covers it; "longest": the largest size
                   inside `resize_to`; or "none"
    resize_to      None for `size`
    interpolation  filter of Pillow, always with antialiasing
    center_crop    "none", or crop to `size` with the rounding of one library; smaller images are padded with `fill`
    fill           pixel values of the padding
    rescale        factor for pixel values in 0..255, before normalization
    mean, std      one value per channel: three for RGB, one for grayscale, any number for the bands of
                   `images.open_channels`
    background     color behind transparent pixels
    data_range     value of white in floats, and with other channels than RGB and grayscale in integers of more than
                   8 bits, such as 10000 for reflectances; by default see `vitkit.images.depth`
    profile        "convert" embedded ICC profiles to sRGB, or "ignore" them, as transformers, timm and processors read
                   from their files do
    """

    size: Size = (224, 224)
    resize: Resize = "squash"
    resize_to: int | Size | None = None
    interpolation: Interpolation = "bilinear"
    center_crop: Crop = "none"
    fill: tuple[int, ...] = (0, 0, 0)
    rescale: float = 1 / 255
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF
    background: tuple[int, int, int] = (255, 255, 255)
    data_range: float | None = None
    profile: Profile = "convert"

    def __post_init__(self) -> None:
        for name, kinds in (
            ("resize", Resize),
            ("interpolation", Interpolation),
            ("center_crop", Crop),
            ("profile", Profile),
        ):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(
                    f"Processor.{name} must be one of {list(get_args(kinds))}, got {getattr(self, name)!r}"
                )
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"Processor.size must be (height, width) in pixels, both at least 1, got {self.size!r}")
        for name, values in (("mean", self.mean), ("std", self.std), ("rescale", (self.rescale,))):
            if not isinstance(values, tuple | list) or not all(map(_is_number, values)):
                raise ValueError(f"Processor.{name} must consist of numbers, got {getattr(self, name)!r}")
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(f"mean and std must have one value per channel, got {self.mean!r} and {self.std!r}")
        if not all(self.std):
            raise ValueError(f"std must not contain 0, got {self.std!r}")
        self._canonicalize()
        if len(self.fill) != self.channels:
            raise ValueError(f"fill must have {self.channels} values, one per channel, got {self.fill!r}")
        if self.resize == "squash" and self.center_crop == "none" and self.resize_to is not None:
            raise ValueError(
                f"resize_to={self.resize_to!r} without a crop does not result in size {self.size}; set center_crop"
            )

    def _canonicalize(self) -> None:
        """Converts equivalent settings to one form, so that equivalent processors compare equal."""
        to = self.resize_to
        if self.resize != "shortest":
            to = (to, to) if isinstance(to, int) else to
            to = None if to == self.size or self.resize == "none" else to
        object.__setattr__(self, "resize_to", to)
        if len(self.fill) != self.channels and len(self.fill) in (1, 3) and len(set(self.fill)) == 1:
            object.__setattr__(self, "fill", self.fill[:1] * self.channels)

    @property
    def channels(self) -> int:
        """The number of channels: 3 for RGB, 1 for grayscale, or any other number of bands."""
        return len(self.mean)

    def with_channels(self, channels: int) -> "Processor":
        """Returns a processor for another number of channels (see `normalization.for_channels`)."""
        if channels == self.channels:
            return self
        mean, std = for_channels(self.mean, channels), for_channels(self.std, channels)
        fill = tuple(round(value) for value in for_channels(self.fill, channels))
        return replace(self, mean=mean, std=std, fill=fill)

    @classmethod
    def squash(cls, size: int | Size, **fields: Any) -> "Processor":
        """Returns a processor that resizes to `size` without keeping the aspect ratio, as for Google's ViT."""
        return cls(size=(size, size) if isinstance(size, int) else size, resize="squash", **fields)

    @classmethod
    def crop(cls, size: int | Size, crop_fraction: float = 0.9, **fields: Any) -> "Processor":
        """Returns a processor that center-crops the fraction `crop_fraction` of the short side, as timm does."""
        if not 0 < crop_fraction <= 1:
            raise ValueError(f"crop_fraction must be above 0 and at most 1, got {crop_fraction}")
        rows, columns = (size, size) if isinstance(size, int) else size
        to = floor(rows / crop_fraction), floor(columns / crop_fraction)
        settings: dict[str, Any] = {
            "resize": "shortest",
            "resize_to": to[0] if to[0] == to[1] else to,
            "interpolation": "bicubic",
            "center_crop": "torchvision",
        }
        return cls(size=(rows, columns), **(settings | fields))

    def image(
        self,
        image: ImageInput,
        *,
        channels: Channels | None = None,
        limits: Limits = DEFAULT_LIMITS,
        allow_truncated: bool = False,
        data_range: float | None = None,
    ) -> AnyImage:
        """Returns the resized and cropped image before normalization: in mode RGB or L, or as `Bands`.

        `data_range` replaces that of the processor. Raises ImageError for files, ValueError and TypeError for images
        in memory.
        """
        options: FileOptions = {"limits": limits, "allow_truncated": allow_truncated, "data_range": data_range}
        return self._resize_and_crop(self.full(image, channels=channels, **options))

    def _resize_and_crop(self, image: AnyImage) -> AnyImage:
        target = self.resized_size((image.height, image.width))
        if self.center_crop == "none":
            return resize_image(image, target, self.interpolation)
        return resize_and_crop(image, target, self.interpolation, self.center_crop, self.size, self.fill)

    def full(self, image: ImageInput, *, channels: Channels | None = None, **options: Unpack[FileOptions]) -> AnyImage:
        """Returns the image without resizing or cropping: in mode RGB or L, or as `Bands`."""
        white = self._white(options)
        if isinstance(image, Unlisted):
            raise image.error
        if not is_in_memory(image):
            return open_channels(image, self.channels, **self._reading(options))
        if not isinstance(image, Image.Image | Bands):
            try:
                return self._full_array(image, channels, white)
            except (ValueError, TypeError) as error:
                text = f"{describe(image)}: {error}"
                raise (ImageError(error.code, text) if isinstance(error, ImageError) else type(error)(text)) from None
        return self._full_array(image, channels, white)

    def _full_array(self, image: ImageInput, channels: Channels | None, white: float | None) -> AnyImage:
        if self.channels not in (1, 3):
            return to_channels(image, self.channels, axis=channels, profile=self.profile, data_range=white)
        rgb = to_rgb(image, channels=channels, background=self.background, profile=self.profile, data_range=white)
        return rgb if self.channels == 3 else rgb.convert("L")

    def _white(self, options: FileOptions) -> float | None:
        given = options.get("data_range")
        return self.data_range if given is None else given

    def _reading(self, options: FileOptions) -> OpenOptions:
        """Returns the options for reading a file, completed with the settings of this processor."""
        settings = OpenOptions(background=self.background, profile=self.profile, data_range=self._white(options))
        return {**options, **settings}

    def array(self, image: ImageInput, **options: Unpack[Options]) -> Float32[np.ndarray, "c h w"]:
        """Preprocesses one image without torch. Takes the same options as `image`."""
        return self.normalize(self.pixels(image, **options))

    def resized_size(self, size: Size) -> Size:
        """Returns the size (height, width) to which an image of `size` is resized before it is cropped."""
        return resized_size(size, self.resize, self.size if self.resize_to is None else self.resize_to)

    def pixels(
        self, image: ImageInput, *, channels: Channels | None = None, **options: Unpack[FileOptions]
    ) -> UInt8[np.ndarray, "h w *c"]:
        """Returns the resized and cropped pixels as an array, computed with the C kernel if possible."""
        if self.channels != 3 or self.interpolation not in ("bilinear", "bicubic"):
            return np.asarray(self.image(image, channels=channels, **options))
        if is_in_memory(image):
            pixels = np.asarray(self.full(image, channels=channels, **options))
        else:
            pixels = open_rgb_pixels(image, **self._reading(options))
        to = self.resized_size((pixels.shape[0], pixels.shape[1]))
        found = fast.resize_and_crop(pixels, to, self.interpolation, self.center_crop, self.size)
        return np.asarray(self._resize_and_crop(Image.fromarray(pixels))) if found is None else found

    def normalize(self, pixels: UInt8[np.ndarray, "h w *c"]) -> Float32[np.ndarray, "c h w"]:
        """Rescales pixels and normalizes each channel with its mean and std."""
        return normalize(pixels, self.rescale, tuple(self.mean), tuple(self.std))

    def __call__(
        self, images: ImageInput | Iterable[ImageInput], **options: Unpack[Options]
    ) -> 'Float32[Tensor, "b c h w"]':
        """Preprocesses one image or several: a list, an iterator, or an array (b, c, h, w) or (b, h, w, c).

        Returns a batch. Errors name the image: by its path, or by its index.
        """
        import torch

        white, (_, single) = self._white(options), split(images)
        many = each_image(images, self.channels, channels=options.get("channels"), data_range=white)
        arrays = []
        for index, image in enumerate(many):
            try:
                arrays.append(self.array(image, **options))
            except (ValueError, TypeError) as error:
                raise (error if single and not is_path(image) else named(error, image, index)) from None
        if not arrays:
            return torch.empty((0, self.channels, *self.size))
        if len({array.shape for array in arrays}) > 1:
            raise ValueError(
                f"images of different sizes cannot be batched with resize={self.resize!r} and center_crop='none'; "
                "pass them one by one"
            )
        return torch.from_numpy(np.stack(arrays))

    def to_huggingface(self, kind: Literal["ViT", "ConvNext"] = "ViT") -> dict[str, Any]:
        """Returns the content of preprocessor_config.json. Settings that transformers lacks are under "vitkit".

        `kind` "ConvNext", the processor of ResNets, applies if it can represent the settings (`huggingface.convnext`).
        """
        settings = to_dict(self)
        config = (huggingface.convnext(settings) if kind == "ConvNext" else None) or huggingface.write(settings)
        readable = to_dict(Processor(**huggingface.read(config)[0]))
        own = {name: value for name, value in settings.items() if value != readable[name]}
        return dict(sorted((config | ({"vitkit": own} if own else {})).items()))

    @classmethod
    def from_huggingface(cls, config: Mapping[str, Any]) -> "Processor":
        """Returns the processor of a preprocessor_config.json or processor_config.json of any version."""
        settings, own = huggingface.read(config)
        plain = cls(**settings)
        checked = from_dict(cls, to_dict(plain) | own, where="vitkit")
        return replace(plain, **{name: getattr(checked, name) for name in own})

    @classmethod
    def from_timm(cls, pretrained_cfg: Mapping[str, Any]) -> "Processor":
        """Returns the processor of a timm pretrained_cfg, or of a config.json that contains one."""
        return cls(**timm.read(pretrained_cfg))


def is_in_memory(image: ImageInput) -> bool:
    """Returns whether an image is already decoded: a PIL image, an array, a tensor or `Bands`."""
    return isinstance(image, Image.Image | np.ndarray | Bands) or is_tensor(image)


def named(error: ValueError | TypeError, image: ImageInput, index: int) -> ValueError | TypeError:
    """Returns the error with the path of the image, or its index in the batch, added to the message."""
    text = f"{printable(image) if is_path(image) else f'image {index}'}: {error}"
    if isinstance(error, ImageError):
        return ImageError(error.code, text)
    return TypeError(text) if isinstance(error, TypeError) else ValueError(text)


def is_path(image: ImageInput) -> bool:
    """Returns whether an image is given as a path (or an `Unlisted` path), not as bytes or pixels."""
    return isinstance(image, str | os.PathLike | Unlisted)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
