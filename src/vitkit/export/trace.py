"""A model as one graph of tensor operations (torch.export), with a free batch and everything else fixed."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.models import Backbone

#: What tells of the machine and the sources that a graph came from.
_ORIGINS = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node", "custom")


@dataclass(frozen=True)
class Traced:
    """The graph from `images` to `outputs`, and how its tokens are laid out; `model` is the model as it was traced."""

    program: torch.export.ExportedProgram
    outputs: tuple[str, ...]
    grid: tuple[int, int]
    num_special: int


class _Answers(nn.Module):
    """Logits (where there are classes), representation and tokens of one pass."""

    def __init__(self, model: Backbone):
        super().__init__()
        self.model = model

    def forward(self, images: Float[Tensor, "b c height width"]) -> tuple[Tensor, ...]:
        features = self.model.features(images)
        answers = (self.model.represent(features), features.tokens)
        return (self.model.logits(features), *answers) if self.model.config.num_classes else answers


def trace(model: Backbone) -> Traced:
    """The graph of a model for images of its config's size, on the CPU in float32 and in evaluation mode.

    The model is not changed. Raises ValueError for one that has no weights yet (the meta device).
    """
    if next(model.parameters()).device.type == "meta":
        raise ValueError("a model on the meta device has no weights to export")
    plain = copy.deepcopy(model).to("cpu", torch.float32).eval().requires_grad_(False)
    rows, columns = model.config.image_size
    # Two images: a batch of one would be taken for a constant.
    images = torch.zeros(2, model.config.channels, rows, columns)
    with torch.no_grad():
        features = plain.features(images)
        program = torch.export.export(
            _Answers(plain), (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}}
        )
    _forget(program)
    names = ("representation", "tokens")
    return Traced(
        program=program,
        outputs=("logits", *names) if model.config.num_classes else names,
        grid=features.grid,
        num_special=features.num_special,
    )


def _forget(program: Any) -> None:
    """Takes the sample inputs out, which would be kept as a pickle, and what names this machine's files."""
    program._example_inputs = None
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for key in _ORIGINS:
                    node.meta.pop(key, None)
