"""The processor: a picture of any kind in, the float32 tensor that a model was trained on out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from vitkit.config import from_dict, to_dict
from vitkit.data.processor import fast, huggingface, timm
from vitkit.data.processor.geometry import Crop, Interpolation, Resize, Size, resize_and_crop, resize_whole, resized
from vitkit.data.processor.normalization import HALF, normalize
from vitkit.images import (
    DEFAULT_LIMITS,
    Channels,
    Limits,
    Profile,
    array_to_bytes,
    as_array,
    find_channels,
    is_tensor,
    open_image,
    open_pixels,
    to_rgb,
)

if TYPE_CHECKING:
    from torch import Tensor

#: Anything that is a picture: a path, bytes, an open binary file, a PIL picture, a numpy array or a torch tensor.
Picture = Any


@dataclass(frozen=True, kw_only=True)
class Processor:
    """Resize, centre-crop, rescale and normalise, bit for bit as HF transformers' PIL processor and timm's eval do.

    size           rows and columns of the model's input
    resize         "squash" to `resize_to` whatever the shape; "shortest": short side to `resize_to`, or, if that is
                   (rows, columns), the smallest that covers it; "longest": the largest that fits inside; or "none"
    resize_to      None stands for `size`
    interpolation  Pillow's filter; it always works against aliasing
    center_crop    "none", or to `size` by one library's rounding, padded with `fill` where the picture is smaller
    rescale        factor from 0..255, before the mean is taken off
    mean, std      one number for each channel: three for RGB, one for a model of grey pictures
    background     what transparent pixels show
    profile        "convert" embedded ICC profiles to sRGB, or "ignore" them, as HF transformers and timm do and as
                   processors read from their files therefore do too
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
    profile: Profile = "convert"

    def __post_init__(self) -> None:
        for name, kinds in (
            ("resize", Resize),
            ("interpolation", Interpolation),
            ("center_crop", Crop),
            ("profile", Profile),
        ):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(f"Processor.{name} is one of {list(get_args(kinds))}, got {getattr(self, name)!r}")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"Processor.size is (rows, columns), both at least 1, got {self.size!r}")
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std):
            raise ValueError(f"mean and std have 3 numbers (RGB) or 1 (grey), got {self.mean!r} and {self.std!r}")
        if not all(self.std):
            raise ValueError(f"std divides, so none may be 0: got {self.std!r}")
        self._settle()
        if len(self.fill) != self.channels:
            raise ValueError(f"fill has {self.channels} numbers, one for each channel, got {self.fill!r}")
        if self.resize == "squash" and self.center_crop == "none" and self.resize_to is not None:
            raise ValueError(
                f"resize_to={self.resize_to!r} without a crop cannot give pictures of the size {self.size}"
            )

    def _settle(self) -> None:
        """One way of writing each setting, so that equal processors compare equal."""
        to = self.resize_to
        if self.resize != "shortest":
            to = (to, to) if isinstance(to, int) else to
            to = None if to == self.size or self.resize == "none" else to
        object.__setattr__(self, "resize_to", to)
        if self.channels == 1 and len(self.fill) == 3 and len(set(self.fill)) == 1:
            object.__setattr__(self, "fill", self.fill[:1])

    @property
    def channels(self) -> int:
        """3 for RGB, 1 for grey."""
        return len(self.mean)

    @classmethod
    def squash(cls, size: int | Size, **fields: Any) -> "Processor":
        """A processor that resizes to the input size whatever the picture's shape: Google's and HF's ViT."""
        return cls(size=(size, size) if isinstance(size, int) else size, resize="squash", **fields)

    @classmethod
    def crop(cls, size: int | Size, crop_fraction: float = 0.9, **fields: Any) -> "Processor":
        """A processor that keeps the middle `crop_fraction` of the short side: timm's and torchvision's way."""
        if not 0 < crop_fraction <= 1:
            raise ValueError(f"crop_fraction is above 0 and at most 1, got {crop_fraction}")
        rows, columns = (size, size) if isinstance(size, int) else size
        to = floor(rows / crop_fraction), floor(columns / crop_fraction)
        settings: dict[str, Any] = {
            "resize": "shortest",
            "resize_to": to[0] if to[0] == to[1] else to,
            "interpolation": "bicubic",
            "center_crop": "torchvision",
        }
        return cls(size=(rows, columns), **(settings | fields))

    def picture(
        self,
        image: Picture,
        *,
        channels: Channels | None = None,
        limits: Limits = DEFAULT_LIMITS,
        allow_truncated: bool = False,
    ) -> Image.Image:
        """What the model sees of a picture, before it becomes numbers: resized and cropped, mode RGB (or L).

        Errors: ImageError for files, ValueError and TypeError for pictures in memory.
        """
        rgb = self.rgb(image, channels=channels, limits=limits, allow_truncated=allow_truncated)
        return self._shaped(rgb if self.channels == 3 else rgb.convert("L"))

    def _shaped(self, flat: Image.Image) -> Image.Image:
        target = self.resized((flat.height, flat.width))
        if self.center_crop == "none":
            return resize_whole(flat, target, self.interpolation)
        return resize_and_crop(flat, target, self.interpolation, self.center_crop, self.size, self.fill)

    def rgb(self, image: Picture, *, channels: Channels | None = None, **reading: Any) -> Image.Image:
        """The whole picture, of mode RGB; `reading` are the `limits` and `allow_truncated` of a file."""
        if isinstance(image, Image.Image | np.ndarray) or is_tensor(image):
            return to_rgb(image, channels=channels, background=self.background, profile=self.profile)
        return open_image(image, background=self.background, profile=self.profile, **reading)

    def array(self, image: Picture, **options: Any) -> Float32[np.ndarray, "c h w"]:
        """One picture as numbers, without torch, so that decoding threads need none; options as for `picture`."""
        return self.numbers(self.levels(image, **options))

    def resized(self, size: Size) -> Size:
        """The rows and columns that a picture of `size` (rows, columns) is resized to, before it is cropped."""
        return resized(size, self.resize, self.size if self.resize_to is None else self.resize_to)

    def levels(
        self, image: Picture, *, channels: Channels | None = None, **reading: Any
    ) -> UInt8[np.ndarray, "h w *c"]:
        """The levels of `picture`, by the fast way where it gives the same ones; options and errors as there."""
        if self.channels != 3 or self.interpolation not in ("bilinear", "bicubic"):
            return np.asarray(self.picture(image, channels=channels, **reading))
        if isinstance(image, Image.Image | np.ndarray) or is_tensor(image):
            pixels = np.asarray(self.rgb(image, channels=channels))
        else:
            pixels = open_pixels(image, background=self.background, profile=self.profile, **reading)
        to = self.resized((pixels.shape[0], pixels.shape[1]))
        found = fast.resize_and_crop(pixels, to, self.interpolation, self.center_crop, self.size)
        return np.asarray(self._shaped(Image.fromarray(pixels))) if found is None else found

    def numbers(self, pixels: UInt8[np.ndarray, "h w *c"]) -> Float32[np.ndarray, "c h w"]:
        """Levels to numbers: rescaled, and normalised by channel."""
        return normalize(pixels, self.rescale, tuple(self.mean), tuple(self.std))

    def __call__(self, images: Picture | Sequence[Picture], **options: Any) -> 'Float32[Tensor, "b c h w"]':
        """One picture, a list of them, or an array (b, c, h, w) or (b, h, w, c), as a batch; options of `picture`."""
        import torch

        arrays = [self.array(image, **choices) for image, choices in _each(images, options)]
        if not arrays:
            return torch.empty((0, self.channels, *self.size))
        if len({array.shape for array in arrays}) > 1:
            raise ValueError(
                f"pictures of different shapes stay different with resize={self.resize!r} and center_crop='none'; "
                "give them one by one"
            )
        return torch.from_numpy(np.stack(arrays))

    def to_huggingface(self) -> dict[str, Any]:
        """Return the content of preprocessor_config.json; settings that transformers lacks are under "vitkit"."""
        settings = to_dict(self)
        config = huggingface.write(settings)
        readable = to_dict(Processor(**huggingface.read(config)[0]))
        own = {name: value for name, value in settings.items() if value != readable[name]}
        return dict(sorted((config | ({"vitkit": own} if own else {})).items()))

    @classmethod
    def from_huggingface(cls, config: Mapping[str, Any]) -> "Processor":
        """Return the processor of a preprocessor_config.json or processor_config.json of any version."""
        settings, own = huggingface.read(config)
        plain = cls(**settings)
        checked = from_dict(cls, to_dict(plain) | own, where="vitkit")
        return replace(plain, **{name: getattr(checked, name) for name in own})

    @classmethod
    def from_timm(cls, pretrained_cfg: Mapping[str, Any]) -> "Processor":
        """Return the processor of timm's eval transform for a pretrained_cfg (or a config.json that holds one)."""
        return cls(**timm.read(pretrained_cfg))


def _each(images: Any, options: dict[str, Any]) -> Iterator[tuple[Picture, dict[str, Any]]]:
    """Every single picture in what a caller gave, with its options."""
    if isinstance(images, list | tuple):
        for image in images:
            yield image, options
    elif (is_tensor(images) or isinstance(images, np.ndarray)) and images.ndim == 4:
        if 0 in images.shape[1:]:
            raise ValueError(
                f"a batch of pictures has the shape (b, c, h, w) or (b, h, w, c), got {tuple(images.shape)}"
            )
        # The whole batch says what white is, so that a dark picture among bright ones is not brightened.
        pixels = array_to_bytes(as_array(images))
        channels = find_channels(pixels.shape[1:], options.get("channels"), is_tensor(images))
        for image in pixels:
            yield image, options | {"channels": channels}
    else:
        yield images, options
