"""Which size a picture is resized to and where it is cropped, rounded exactly as the original libraries round."""

from typing import Final, Literal

from PIL import Image

from vitkit.images import ImageError

Resize = Literal["squash", "shortest", "longest", "none"]
Crop = Literal["none", "torchvision", "huggingface"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Size = tuple[int, int]

#: A resized picture larger than this is never made: a line of 1 x 20000 pixels would become 1.2 thousand million.
MAX_RESIZED: Final = 64_000_000

_FILTERS: Final[dict[Interpolation, Image.Resampling]] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


def resized(size: Size, resize: Resize, to: int | Size) -> Size:
    """Rows and columns that a picture of `size` (rows, columns) is resized to.

    squash            exactly `to`, whatever that does to the shape
    shortest, int     the short side to this length, the long one cut down to a whole number (torchvision, HF)
    shortest, (h, w)  the smallest size of the same shape that covers h x w, rounded to nearest (timm)
    longest, (h, w)   the largest size of the same shape inside h x w, rounded to nearest (timm's border mode)
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
    """Where a centre crop begins along one axis; negative where the picture is shorter and has to be padded.

    The two rules differ by a pixel when the difference of the lengths is odd: torchvision rounds half to even (and
    pads the smaller half first), HF transformers rounds down (and pads the larger half first).
    """
    if rule == "torchvision":
        return round((length - crop) / 2.0) if length >= crop else -((crop - length) // 2)
    return (length - crop) // 2


def _crop(picture: Image.Image, size: Size, rule: Crop, fill: tuple[int, ...]) -> Image.Image:
    top, left = crop_start(picture.height, size[0], rule), crop_start(picture.width, size[1], rule)
    if (picture.height < size[0] or picture.width < size[1]) and any(fill):
        color = fill if len(fill) == 3 else fill[0]
        canvas = Image.new(picture.mode, (size[1], size[0]), color)
        canvas.paste(picture, (-left, -top))
        return canvas
    return picture.crop((left, top, left + size[1], top + size[0]))


def _resize_window(picture: Image.Image, to: Size, name: Interpolation, rule: Crop, size: Size) -> Image.Image:
    """Resize only the part that the crop keeps: the same picture but for rounding, in little memory."""
    rows, columns = min(size[0], to[0]), min(size[1], to[1])
    top, left = max(0, crop_start(to[0], size[0], rule)), max(0, crop_start(to[1], size[1], rule))
    down, across = picture.height / to[0], picture.width / to[1]
    right, bottom = min((left + columns) * across, picture.width), min((top + rows) * down, picture.height)
    return picture.resize((columns, rows), _FILTERS[name], box=(left * across, top * down, right, bottom))


def resize_whole(picture: Image.Image, to: Size, name: Interpolation) -> Image.Image:
    """The picture at this size; error: ImageError when it would grow beyond `MAX_RESIZED` pixels."""
    if to == (picture.height, picture.width):
        return picture
    if to[0] * to[1] > MAX_RESIZED:
        raise ImageError("too_many_pixels", f"a picture of this shape would grow to {to[0]} x {to[1]} pixels")
    return picture.resize((to[1], to[0]), _FILTERS[name])


def resize_and_crop(
    picture: Image.Image, to: Size, name: Interpolation, rule: Crop, size: Size, fill: tuple[int, ...]
) -> Image.Image:
    """The picture resized and cut (or padded with `fill`) to `size` around its middle by one library's rounding."""
    if to[0] * to[1] > MAX_RESIZED and to != (picture.height, picture.width):
        return _crop(_resize_window(picture, to, name, rule, size), size, rule, fill)
    return _crop(resize_whole(picture, to, name), size, rule, fill)
