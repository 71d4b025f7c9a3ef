"""Checks and converts the input images of a model, and adapts its weights to another number of channels."""

from jaxtyping import Float
from torch import Tensor, nn

SHAPE = "(batch, channels, height, width)"


def check_axes(images: Tensor) -> None:
    """Raises ValueError unless `images` is a tensor of shape (batch, channels, height, width)."""
    if not isinstance(images, Tensor):
        shape = getattr(images, "shape", None)
        given = f" of shape {tuple(shape)} and dtype {images.dtype}" if shape is not None else ""
        raise ValueError(
            f"images must be a tensor of the shape {SHAPE} with normalized floating-point values, got a "
            f"{type(images).__name__}{given}; preprocess images with model.processor(images)"
            + (", or pass torch.from_numpy(images) if they are normalized already" if shape is not None else "")
        )
    if images.ndim != 4:
        fix = "; add a batch axis with images[None]" if images.ndim == 3 else ""
        if images.ndim == 3 and images.shape[0] not in (1, 3) and images.shape[2] in (1, 3):
            fix = "; put the channels first and add a batch axis with images.permute(2, 0, 1)[None]"
        raise ValueError(f"images must have the shape {SHAPE}, got {tuple(images.shape)} of dtype {_name(images)}{fix}")


def check_floats(images: Tensor) -> None:
    """Raises ValueError if `images` has an integer, bool or complex dtype, because normalized images are floats."""
    if not images.is_floating_point():
        raise ValueError(
            f"images must be normalized floating-point tensors, got {images.dtype} of shape {tuple(images.shape)}"
            f"{_range(images)}; preprocess them with model.processor(images)"
        )


def _name(images: Tensor) -> str:
    return str(images.dtype).removeprefix("torch.")


def _range(images: Tensor) -> str:
    """Returns the value range of images for an error message, such as " with values from 0 to 255"."""
    if not images.numel() or images.is_complex() or images.is_meta:
        return ""
    return f" with values from {images.min().item():g} to {images.max().item():g}"


def as_input(
    images: Float[Tensor, "b c height width"], channels: int, layer: nn.Module
) -> Float[Tensor, "b c height width"]:
    """Converts images to the dtype of the weight of `layer`, so that a bfloat16 model accepts float32 images.

    A layer of the inference engine has no floating-point weight and gets the images unchanged.

    Raises ValueError for images without a batch axis, with another number of channels, or of integers.
    """
    check_axes(images)
    if images.shape[1] != channels:
        last = images.shape[3] == channels
        raise ValueError(
            f"the model takes images with {channels} channels, but the images have {images.shape[1]} channels: their "
            f"shape is {tuple(images.shape)}"
            + ("; put the channels first with images.permute(0, 3, 1, 2)" if last else f", expected {SHAPE}")
        )
    check_floats(images)
    if 0 in images.shape[2:]:
        raise ValueError(f"the images have no pixels: their shape is {tuple(images.shape)}; expected {SHAPE}")
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.dtype == images.dtype:
        return images
    return images.to(weight.dtype)


def adapt_input_weight(weight: Float[Tensor, "out c h w"], channels: int) -> Float[Tensor, "out c2 h w"]:
    """Converts the weight of an RGB input convolution to another number of channels, as timm does.

    One channel gets the sum of the RGB weights, so that a gray image gives the output of the same image in RGB. More
    channels repeat the weights (R, G, B, R, ...), scaled by 3 / channels, so that the output keeps its magnitude.
    Source: `timm.models._manipulate.adapt_input_conv`. Raises ValueError for other numbers of input channels.
    """
    given = weight.shape[1]
    if given == channels:
        return weight
    if given != 3:
        raise ValueError(
            f"only weights for 3 channels (RGB) can be adapted to {channels} channels, not weights for {given} channels"
        )
    if channels < 1:
        raise ValueError(f"channels is {channels}; it must be at least 1")
    if channels == 1:
        return weight.float().sum(dim=1, keepdim=True).to(weight.dtype)
    repeated = weight.float().repeat(1, -(-channels // 3), 1, 1)[:, :channels]
    return (repeated * (3 / channels)).to(weight.dtype)


def adapt_input_convolution(convolution: nn.Module, channels: int) -> None:
    """Converts the weight of an input convolution in place, with `adapt_input_weight`."""
    assert isinstance(convolution, nn.Conv2d)
    weight = adapt_input_weight(convolution.weight.detach(), channels).clone()
    convolution.weight = nn.Parameter(weight, convolution.weight.requires_grad)
    convolution.in_channels = channels
