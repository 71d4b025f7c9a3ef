"""Random views of prepared pictures, a whole batch at once on its device: crops, colours, blur.

For methods that compare views of one picture. What is random is drawn on the CPU from torch's global generator, which
the loop seeds before every step, so that a view is the same on every device.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

GREY = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow


@dataclass(frozen=True, kw_only=True)
class Colours:
    """How far colours are changed, and how often pictures get blurred or solarised; all are shares.

    `jitter` is for brightness, contrast, saturation and hue (DINO: with 0.8 of pictures); `mean` and `std` are those of
    the processor. Pictures of other than three channels keep saturation and hue.
    """

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jittered: float = 0.8
    grey: float = 0.2
    sigma: tuple[float, float] = (0.1, 2.0)


def random_crops(
    images: Float[Tensor, "b c height width"], size: tuple[int, int], scale: tuple[float, float]
) -> Float[Tensor, "b c rows columns"]:
    """One crop of each picture, resized to `size`, every second one mirrored.

    Its share of the area is uniform in `scale`, its shape log-uniform between 3:4 and 4:3; a side that would not fit is
    cut. Bicubic without a filter against aliasing, so crops should not be much larger than `size`.
    """
    num, _, height, width = images.shape
    area = torch.empty(num).uniform_(*scale) * height * width
    ratio = torch.empty(num).uniform_(-math.log(4 / 3), math.log(4 / 3)).exp()
    columns, rows = (area * ratio).sqrt().clamp(max=width), (area / ratio).sqrt().clamp(max=height)
    # In affine_grid's measure a picture goes from -1 to 1.
    spread_x, spread_y = columns / width, rows / height
    x, y = ((torch.rand(num) * 2 - 1) * (1 - spread) for spread in (spread_x, spread_y))
    mirrored = 1 - 2 * (torch.rand(num) < 0.5).float()
    zero = torch.zeros(num)
    matrix = torch.stack([spread_x * mirrored, zero, x, zero, spread_y, y], dim=1).view(num, 2, 3)
    grid = F.affine_grid(matrix.to(images), [num, images.shape[1], *size], align_corners=False)
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)


def recolour(
    images: Float[Tensor, "b c h w"], colours: Colours, *, blurred: float = 0.0, solarised: float = 0.0
) -> Float[Tensor, "b c h w"]:
    """The pictures with colours jittered, grey, blurred and solarised, each at random by itself and in this order."""
    mean, std = (images.new_tensor(each)[:, None, None] for each in (colours.mean, colours.std))
    x = (images * std + mean).clamp(0, 1)
    x = torch.where(_some(x, colours.jittered), jitter(x, colours.jitter), x)
    if x.shape[1] == 3:
        x = torch.where(_some(x, colours.grey), _grey(x).expand_as(x), x)
    if blurred:
        x = torch.where(_some(x, blurred), blur(x, torch.empty(x.shape[0]).uniform_(*colours.sigma)), x)
    if solarised:
        x = torch.where(_some(x, solarised) & (x >= 0.5), 1 - x, x)
    return (x - mean) / std


def jitter(x: Float[Tensor, "b c h w"], amounts: tuple[float, float, float, float]) -> Float[Tensor, "b c h w"]:
    """Brightness, contrast, saturation and hue (a turn around the grey axis) of pictures in 0..1, in that order."""
    brightness, contrast, saturation = (_factors(x, amount) for amount in amounts[:3])
    x = (x * brightness).clamp(0, 1)
    x = torch.lerp(_grey(x).mean(dim=(2, 3), keepdim=True).expand_as(x), x, contrast).clamp(0, 1)
    turn = torch.empty(x.shape[0]).uniform_(-amounts[3], amounts[3]) * 2 * math.pi
    if x.shape[1] != 3:
        return x
    x = torch.lerp(_grey(x).expand_as(x), x, saturation).clamp(0, 1)
    return torch.einsum("b o c, b c h w -> b o h w", _rotations(turn).to(x), x).clamp(0, 1)


def blur(x: Float[Tensor, "b c h w"], sigma: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """A Gaussian blur of each picture by its own sigma in pixels, cut at three of the largest."""
    b, c, height, width = x.shape
    radius = min(math.ceil(3 * float(sigma.max())), min(height, width) - 1)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(c, dim=0).to(x)
    padded = F.pad(x, (radius, radius, radius, radius), mode="reflect").reshape(1, b * c, *_grown(x, radius))
    rows = F.conv2d(padded, kernel[:, None, :, None], groups=b * c)
    return F.conv2d(rows, kernel[:, None, None, :], groups=b * c).reshape(b, c, height, width)


def _grown(x: Tensor, radius: int) -> tuple[int, int]:
    return x.shape[2] + 2 * radius, x.shape[3] + 2 * radius


def _some(x: Tensor, share: float) -> Tensor:
    return (torch.rand(x.shape[0]) < share).to(x.device)[:, None, None, None]


def _factors(x: Tensor, amount: float) -> Tensor:
    return torch.empty(x.shape[0]).uniform_(1 - amount, 1 + amount).to(x)[:, None, None, None]


def _grey(x: Tensor) -> Tensor:
    weights = x.new_tensor(GREY) if x.shape[1] == 3 else x.new_full((x.shape[1],), 1 / x.shape[1])
    return (x * weights[:, None, None]).sum(dim=1, keepdim=True)


def _rotations(angle: Float[Tensor, " b"]) -> Float[Tensor, "b 3 3"]:
    # Rodrigues' formula around (1, 1, 1) / sqrt(3), the axis on which colours are grey.
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return cos * torch.eye(3) + sin * cross + (1 - cos) / 3
