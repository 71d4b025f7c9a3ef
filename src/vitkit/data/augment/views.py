"""Random views of a batch of normalized images, computed on their device: crops, color augmentation and blur.

Used by objectives that compare views of one image. Random numbers come from the global CPU generator of torch, which
the training loop seeds before every step, so views are the same on every device.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

GREY = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow


@dataclass(frozen=True, kw_only=True)
class ColorAugmentation:
    """Settings of color augmentation. Saturation and hue are changed only in images with three channels.

    mean, std  normalization of the images
    jitter     strength for brightness, contrast, saturation and hue
    jitter_probability     probability of color jitter (0.8 in DINO)
    grayscale_probability  probability of grayscale
    sigma      minimum and maximum standard deviation of the blur in pixels
    """

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_probability: float = 0.8
    grayscale_probability: float = 0.2
    sigma: tuple[float, float] = (0.1, 2.0)


def random_crops(
    images: Float[Tensor, "b c height width"], size: tuple[int, int], scale: tuple[float, float]
) -> Float[Tensor, "b c rows columns"]:
    """Crops each image at random, resizes it to `size` and flips it with probability 0.5.

    The fraction of the area is uniform in `scale`, the aspect ratio log-uniform between 3:4 and 4:3; sides are limited
    to those of the image. The resize is bicubic without antialiasing, so crops should not be much larger than `size`.
    """
    num, _, height, width = images.shape
    area = torch.empty(num).uniform_(*scale) * height * width
    ratio = torch.empty(num).uniform_(-math.log(4 / 3), math.log(4 / 3)).exp()
    columns, rows = (area * ratio).sqrt().clamp(max=width), (area / ratio).sqrt().clamp(max=height)
    # Coordinates of affine_grid range from -1 to 1.
    spread_x, spread_y = columns / width, rows / height
    x, y = ((torch.rand(num) * 2 - 1) * (1 - spread) for spread in (spread_x, spread_y))
    flip_sign = 1 - 2 * (torch.rand(num) < 0.5).float()
    zero = torch.zeros(num)
    matrix = torch.stack([spread_x * flip_sign, zero, x, zero, spread_y, y], dim=1).view(num, 2, 3)
    grid = F.affine_grid(matrix.to(images), [num, images.shape[1], *size], align_corners=False)
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)


def augment_colors(
    images: Float[Tensor, "b c h w"],
    colors: ColorAugmentation,
    *,
    blur_probability: float = 0.0,
    solarize_probability: float = 0.0,
) -> Float[Tensor, "b c h w"]:
    """Applies color jitter, grayscale, blur and solarize, in this order, each to a random subset of the images.

    `blur_probability` and `solarize_probability` are the probabilities of the last two.
    """
    mean, std = (images.new_tensor(each)[:, None, None] for each in (colors.mean, colors.std))
    x = (images * std + mean).clamp(0, 1)
    x = torch.where(_random_mask(x, colors.jitter_probability), jitter(x, colors.jitter), x)
    if x.shape[1] == 3:
        x = torch.where(_random_mask(x, colors.grayscale_probability), _gray(x).expand_as(x), x)
    if blur_probability:
        x = torch.where(_random_mask(x, blur_probability), blur(x, torch.empty(x.shape[0]).uniform_(*colors.sigma)), x)
    if solarize_probability:
        x = torch.where(_random_mask(x, solarize_probability) & (x >= 0.5), 1 - x, x)
    return (x - mean) / std


def jitter(x: Float[Tensor, "b c h w"], amounts: tuple[float, float, float, float]) -> Float[Tensor, "b c h w"]:
    """Jitters brightness, contrast, saturation and hue (a rotation around the gray axis) of images in [0, 1]."""
    brightness, contrast, saturation = (_factors(x, amount) for amount in amounts[:3])
    x = (x * brightness).clamp(0, 1)
    x = torch.lerp(_gray(x).mean(dim=(2, 3), keepdim=True).expand_as(x), x, contrast).clamp(0, 1)
    angle = torch.empty(x.shape[0]).uniform_(-amounts[3], amounts[3]) * 2 * math.pi
    if x.shape[1] != 3:
        return x
    x = torch.lerp(_gray(x).expand_as(x), x, saturation).clamp(0, 1)
    return torch.einsum("b o c, b c h w -> b o h w", _rotations(angle).to(x), x).clamp(0, 1)


def blur(x: Float[Tensor, "b c h w"], sigma: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Blurs each image with a Gaussian of its own `sigma`. Kernels end at three times the largest `sigma`."""
    b, c, height, width = x.shape
    radius = min(math.ceil(3 * float(sigma.max())), min(height, width) - 1)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(c, dim=0).to(x)
    padded = F.pad(x, (radius, radius, radius, radius), mode="reflect").reshape(1, b * c, *_padded_size(x, radius))
    rows = F.conv2d(padded, kernel[:, None, :, None], groups=b * c)
    return F.conv2d(rows, kernel[:, None, None, :], groups=b * c).reshape(b, c, height, width)


def _padded_size(x: Tensor, radius: int) -> tuple[int, int]:
    return x.shape[2] + 2 * radius, x.shape[3] + 2 * radius


def _random_mask(x: Tensor, probability: float) -> Tensor:
    return (torch.rand(x.shape[0]) < probability).to(x.device)[:, None, None, None]


def _factors(x: Tensor, amount: float) -> Tensor:
    return torch.empty(x.shape[0]).uniform_(1 - amount, 1 + amount).to(x)[:, None, None, None]


def _gray(x: Tensor) -> Tensor:
    weights = x.new_tensor(GREY) if x.shape[1] == 3 else x.new_full((x.shape[1],), 1 / x.shape[1])
    return (x * weights[:, None, None]).sum(dim=1, keepdim=True)


def _rotations(angle: Float[Tensor, " b"]) -> Float[Tensor, "b 3 3"]:
    # Rodrigues' formula around (1, 1, 1) / sqrt(3), the axis the axis of gray colors.
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return cos * torch.eye(3) + sin * cross + (1 - cos) / 3
