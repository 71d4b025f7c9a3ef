"""Computes sizes of resized images and positions of crops, with the rounding of torchvision, transformers and timm."""

from typing import Final, Literal

from PIL import Image

from vitkit.images import AnyImage, Bands, ImageError

Resize = Literal["squash", "shortest", "longest", "none"]
Crop = Literal["none", "torchvision", "huggingface"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Size = tuple[int, int]

#: Maximum pixels of a resized image: an image of 1 x 20000 pixels could become 1.2 billion.
MAX_RESIZED: Final = 64_000_000

_FILTERS: Final[dict[Interpolation, Image.Resampling]] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


def resized_size(size: Size, resize: Resize, to: int | Size) -> Size:
    """Returns the size (height, width) to which an image of `size` is resized.

    squash            exactly `to`, without keeping the aspect ratio
    shortest, int     short side `to`; the long side is rounded down (torchvision, transformers)
    shortest, (h, w)  smallest size with the same aspect ratio that covers h x w, rounded to nearest (timm)
    longest, (h, w)   largest size with the same aspect ratio inside h x w, rounded to nearest (timm's border mode)
    """
    rows, columns = size
    if resize == "none":
        return size
    if isinstance(to, int):
        if resize != "shortest":
            to = (to, to)
        elif columns <= rows:
            return int(to * rows / columns), to
        else:
            return to, int(to * columns / rows)
    if resize == "squash":
        return to
    ratios = rows / to[0], columns / to[1]
    ratio = min(ratios) if resize == "shortest" else max(ratios)
    return max(1, round(rows / ratio)), max(1, round(columns / ratio))


def crop_start(length: int, crop: int, rule: Crop) -> int:
    """Returns the start of a center crop along one axis. The start is negative if the image is smaller than the crop.

    The rules differ by one pixel if the difference of the lengths is odd: torchvision rounds half to even (and pads the
    smaller half first), transformers rounds down (and pads the larger half first).
    """
    if rule == "torchvision":
        return round((length - crop) / 2.0) if length >= crop else -((crop - length) // 2)
    return (length - crop) // 2


def _crop(image: AnyImage, size: Size, rule: Crop, fill: tuple[int, ...]) -> AnyImage:
    top, left = crop_start(image.height, size[0], rule), crop_start(image.width, size[1], rule)
    if (image.height < size[0] or image.width < size[1]) and any(fill):
        if isinstance(image, Bands):
            return image.padded((left, top, left + size[1], top + size[0]), fill)
        color = fill if len(fill) == 3 else fill[0]
        canvas = Image.new(image.mode, (size[1], size[0]), color)
        canvas.paste(image, (-left, -top))
        return canvas
    return image.crop((left, top, left + size[1], top + size[0]))


def _resize_window(image: AnyImage, to: Size, name: Interpolation, rule: Crop, size: Size) -> AnyImage:
    """Resizes only the part that the crop keeps, to save memory. Results equal a full resize up to rounding."""
    rows, columns = min(size[0], to[0]), min(size[1], to[1])
    top, left = max(0, crop_start(to[0], size[0], rule)), max(0, crop_start(to[1], size[1], rule))
    down, across = image.height / to[0], image.width / to[1]
    right, bottom = min((left + columns) * across, image.width), min((top + rows) * down, image.height)
    return image.resize((columns, rows), _FILTERS[name], box=(left * across, top * down, right, bottom))


def resize_image(image: AnyImage, to: Size, name: Interpolation) -> AnyImage:
    """Resizes an image. Raises ImageError if the result has more than `MAX_RESIZED` pixels."""
    if to == (image.height, image.width):
        return image
    if to[0] * to[1] > MAX_RESIZED:
        raise ImageError(
            "too_many_pixels", f"the resized image would have {to[0]} x {to[1]} pixels; the limit is {MAX_RESIZED}"
        )
    return image.resize((to[1], to[0]), _FILTERS[name])


def resize_and_crop(
    image: AnyImage, to: Size, name: Interpolation, rule: Crop, size: Size, fill: tuple[int, ...]
) -> AnyImage:
    """Resizes an image to `to` and center-crops it to `size`. Smaller images are padded with `fill`."""
    if to[0] * to[1] > MAX_RESIZED and to != (image.height, image.width):
        return _crop(_resize_window(image, to, name, rule, size), size, rule, fill)
    return _crop(resize_image(image, to, name), size, rule, fill)
