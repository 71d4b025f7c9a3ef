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
    """The graph from `images` to `outputs`, and how its tokens are laid out."""

    program: torch.export.ExportedProgram
    outputs: tuple[str, ...]
    grid: tuple[int, int]
    num_special: int


class _Answers(nn.Module):
    """The outputs of one pass that `names` names."""

    def __init__(self, model: Backbone, names: tuple[str, ...]):
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, images: Float[Tensor, "b c height width"]) -> tuple[Tensor, ...]:
        """The outputs of normalised images, in order."""
        features = self.model.features(images)
        answers = {"representation": self.model.represent(features), "tokens": features.tokens}
        if "logits" in self.names:
            answers["logits"] = self.model.logits(features)
        return tuple(answers[name] for name in self.names)


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
        # Without pooling the representation is the tokens, and OpenVINO takes no tensor as two outputs.
        pooled = () if plain.represent(features) is features.tokens else ("representation",)
        names = (*(("logits",) if model.config.num_classes else ()), *pooled, "tokens")
        program = torch.export.export(
            _Answers(plain, names), (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}}
        )
    _forget(program)
    return Traced(
        program=program,
        outputs=names,
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
