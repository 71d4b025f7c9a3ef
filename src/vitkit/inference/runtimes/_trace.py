"""Traces a model with torch.export; only the batch size is dynamic."""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.models import Backbone

#: Node metadata with local file paths and source code.
_SOURCE_METADATA = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node", "custom")
#: Batch sizes to test; models are traced with another one.
BATCHES = (1, 3)
SEED = 0


@dataclass(frozen=True)
class Traced:
    """A traced program from `images` to `outputs`, with the layout of its tokens."""

    program: torch.export.ExportedProgram
    outputs: tuple[str, ...]
    grid: tuple[int, int]
    num_special: int


class _SelectedOutputs(nn.Module):
    """A module that returns the outputs in `names` from one forward pass."""

    def __init__(self, model: Backbone, names: tuple[str, ...]):
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, images: Float[Tensor, "b c height width"]) -> tuple[Tensor, ...]:
        """Returns the outputs of normalized images, in order."""
        features = self.model.features(images)
        outputs = {"representation": self.model.represent(features), "tokens": features.tokens}
        if "logits" in self.names:
            outputs["logits"] = self.model.logits(features)
        return tuple(outputs[name] for name in self.names)


def trace(model: Backbone) -> Traced:
    """Traces a model for images of the size in its config.

    Traces a copy on the CPU, in float32 and evaluation mode. Raises ValueError for a model on the meta device, which
    has no weights.
    """
    if next(model.parameters()).device.type == "meta":
        raise ValueError("a model on the meta device has no weights to export")
    plain = copy.deepcopy(model).to("cpu", torch.float32).eval().requires_grad_(False)
    rows, columns = model.config.image_size
    # With batch size 1, torch.export would treat the batch size as a constant.
    images = torch.zeros(2, model.config.channels, rows, columns)
    with torch.no_grad():
        features = plain.features(images)
        # Without pooling the representation is the tokens; OpenVINO does not allow the same tensor as two outputs.
        pooled = () if plain.represent(features) is features.tokens else ("representation",)
        names = (*(("logits",) if model.config.num_classes else ()), *pooled, "tokens")
        program = torch.export.export(
            _SelectedOutputs(plain, names), (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}}
        )
    _remove_metadata(program)
    return Traced(
        program=program,
        outputs=names,
        grid=features.grid,
        num_special=features.num_special,
    )


def _remove_metadata(program: torch.export.ExportedProgram) -> None:
    """Removes sample inputs, which would be pickled, and metadata with local file paths."""
    program._example_inputs = None
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for key in _SOURCE_METADATA:
                    node.meta.pop(key, None)


@torch.inference_mode()
def differences(model: Backbone, exported: Backbone) -> tuple[dict[str, float], dict[str, float]]:
    """Returns the largest difference and the scale of each output on seeded random images.

    The scale is the largest absolute value of the original output, at least 1; tolerances are multiples of it. NaN
    gives an infinite difference.
    """
    model = copy.deepcopy(model).to("cpu", torch.float32).eval()
    generator = torch.Generator().manual_seed(SEED)
    largest: dict[str, float] = {}
    scale: dict[str, float] = {}
    for batch in BATCHES:
        images = torch.randn(batch, model.config.channels, *model.config.image_size, generator=generator)
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
