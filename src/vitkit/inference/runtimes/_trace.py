"""Traces a model with torch.export. The batch size is dynamic. The image size is dynamic on request."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import product
from typing import Any

import jaxtyping
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.config import AnyConfig
from vitkit.models import Backbone, axial_resnet, hybrid

#: Node metadata with local file paths and source code.
_SOURCE_METADATA = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node", "custom")
#: Batch sizes to test; models are traced with another one.
BATCHES = (1, 3)
SEED = 0


@dataclass(frozen=True)
class Traced:
    """A traced program that maps `images` to `outputs`, with the patch grid and number of special tokens."""

    program: torch.export.ExportedProgram
    outputs: tuple[str, ...]
    grid: tuple[int, int]
    num_special: int


class _SelectedOutputs(nn.Module):
    """A module that computes the outputs listed in `names` in one forward pass."""

    def __init__(self, model: Backbone, names: tuple[str, ...], dtype: torch.dtype = torch.float32):
        super().__init__()
        self.model = model
        self.names = names
        self.dtype = dtype

    def forward(self, images: Float[Tensor, "b c height width"]) -> tuple[Tensor, ...]:
        """Returns the selected outputs for normalized images, in float32 and in the order of `names`."""
        features = self.model.features(images.to(self.dtype))
        outputs = {"representation": self.model.represent(features), "tokens": features.tokens}
        if "logits" in self.names:
            outputs["logits"] = self.model.logits(features)
        return tuple(outputs[name].float() for name in self.names)


def trace(model: Backbone, *, dynamic_size: bool = False, dtype: torch.dtype = torch.float32) -> Traced:
    """Traces a model for the image size in its config, or for any image size if `dynamic_size` is True.

    Traces a copy on the CPU in evaluation mode, which computes in `dtype` and has inputs and outputs in float32. Raises
    ValueError for a model on the meta device, which has no weights, and for one without a dynamic image size.
    """
    if dynamic_size and (reason := fixed_size_reason(model.config)):
        raise ValueError(
            f"{type(model).__name__} cannot have a dynamic image size: {reason}; export the model once for each size"
        )
    if next(model.parameters()).device.type == "meta":
        raise ValueError("the model is on the meta device and has no weights to export; load the weights first")
    plain = copy.deepcopy(model).to("cpu", torch.float32).eval().requires_grad_(False)
    rows, columns = model.config.image_size
    # With batch size 1, torch.export would treat the batch size as a constant.
    images = torch.zeros(2, model.config.channels, rows, columns)
    shapes: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    with torch.no_grad():
        features = plain.features(images)
        # Without pooling the representation is the tokens; OpenVINO does not allow the same tensor as two outputs.
        pooled = () if plain.represent(features) is features.tokens else ("representation",)
        names = (*(("logits",) if model.config.num_classes else ()), *pooled, "tokens")
        if dynamic_size:
            images, sides = _other_size(model, images)
            shapes |= sides
        selected = _SelectedOutputs(plain.to(dtype), names, dtype)
        with without_shape_checks() if dynamic_size else nullcontext():
            program = torch.export.export(selected, (images,), dynamic_shapes={"images": shapes})
    _remove_metadata(program)
    return Traced(
        program=program,
        outputs=names,
        grid=features.grid,
        num_special=features.num_special,
    )


@contextmanager
def without_shape_checks() -> Iterator[None]:
    """Context manager that disables jaxtyping's checks, because symbolic sizes are not of type int."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def fixed_size_reason(config: AnyConfig) -> str:
    """Returns why a model must be exported with a fixed image size, or an empty string if the size can be dynamic."""
    if getattr(config, "relative", "none") != "none" and config.relative_resize != "bilinear":
        return "its tables of relative positions are resized by a search for geometric steps"
    if getattr(config, "position", "") == "relative":
        return "its vectors of relative positions are averaged over pairs of patches"
    if isinstance(config, axial_resnet.Config):
        return "its tables of relative positions are interpolated for every stage"
    if isinstance(config, hybrid.Config) or getattr(config, "padding", "") == "same":
        return "the padding of its convolutions (SAME) depends on the size"
    return ""


def _other_size(model: Backbone, images: Tensor) -> tuple[Tensor, dict[int, Any]]:
    """Returns example images of a non-native size for tracing, and the dynamic dimensions of their height and width."""
    patch = getattr(model.config, "patch_size", None)
    if patch is None:
        size = [side + step for side, step in zip(images.shape[2:], (32, 64), strict=True)]
        dimensions = [torch.export.Dim.DYNAMIC, torch.export.Dim.DYNAMIC]
    else:
        size = [(n + more) * side for n, more, side in zip(model.config.grid, (1, 2), patch, strict=True)]
        names = ("rows", "columns")
        dimensions = [side * torch.export.Dim(name, min=2) for name, side in zip(names, patch, strict=True)]
    return images.new_zeros(*images.shape[:2], *size), dict(zip((2, 3), dimensions, strict=True))


def sizes_to_test(model: Backbone, *, dynamic_size: bool) -> list[tuple[int, int]]:
    """Returns the image sizes, as (height, width) in pixels, with which an exported model is tested.

    The first is the native size of the model. If the size is dynamic, a larger, a smaller and a fourth size are added.
    For models without patches, the fourth size tests an odd height. Models with patches accept only multiples of the
    patch size.
    """
    rows, columns = model.config.image_size
    if not dynamic_size:
        return [(rows, columns)]
    patch = getattr(model.config, "patch_size", (32, 32))
    less = [max(side, side * (size // side // 2)) for size, side in zip((rows, columns), patch, strict=True)]
    other = (rows + (2 * patch[0] if hasattr(model.config, "patch_size") else 15), columns + 3 * patch[1])
    return [(rows, columns), (rows + patch[0], 2 * columns), (less[0], less[1]), other]


def _remove_metadata(program: torch.export.ExportedProgram) -> None:
    """Removes the sample inputs, which would be pickled, and metadata that contains local file paths."""
    program._example_inputs = None
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for key in _SOURCE_METADATA:
                    node.meta.pop(key, None)


@torch.inference_mode()
def differences(
    model: Backbone, exported: Backbone, *, dynamic_size: bool = False
) -> tuple[dict[str, float], dict[str, float]]:
    """Returns the largest difference and the scale of each output, measured on random images with a fixed seed.

    The scale is the largest absolute value of the original output, at least 1; tolerances are multiples of it. NaN
    gives an infinite difference.
    """
    model = copy.deepcopy(model).to("cpu", torch.float32).eval()
    generator = torch.Generator().manual_seed(SEED)
    largest: dict[str, float] = {}
    scale: dict[str, float] = {}
    for (height, width), batch in product(sizes_to_test(model, dynamic_size=dynamic_size), BATCHES):
        images = torch.randn(batch, model.config.channels, height, width, generator=generator)
        expected, actual = _outputs(model, images), _outputs(exported, images)
        for name, value in expected.items():
            largest[name] = max(largest.get(name, 0.0), _difference(value, actual[name]))
            scale[name] = max(scale.get(name, 1.0), float(value.abs().max()))
    return largest, scale


def _outputs(model: Backbone, images: Tensor) -> dict[str, Tensor]:
    features = model.features(images)
    return {
        "logits": model.logits(features),
        "representations": model.represent(features),
        "tokens": features.tokens,
    }


def _difference(expected: Tensor, actual: Tensor) -> float:
    if expected.shape != actual.shape:
        return float("inf")
    largest = float((expected.double() - actual.double()).abs().max())
    return largest if largest == largest else float("inf")
