"""Contract checks of explanation methods. Each check takes the name of a method."""

import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from PIL import Image

from vitkit import explanation, models
from vitkit.explanation import Drawing, ExplainInputs, Explanation
from vitkit.models import Backbone, vit
from vitkit.plugins.contracts import ContractError, expect


def inputs(model: Backbone, number: int = 2) -> ExplainInputs:
    """Returns random images for a model, with an enlarged version of each for display."""
    rows, columns = model.config.image_size
    pixels = torch.rand(number, model.config.channels, rows, columns)
    colors = (pixels.permute(0, 2, 3, 1).expand(-1, -1, -1, 3) * 255).byte().numpy()
    images = tuple(Image.fromarray(each).resize((4 * columns, 4 * rows)) for each in colors)
    return ExplainInputs(model, pixels, images, tuple(f"class {each}" for each in range(model.config.num_classes)))


def small_model() -> Backbone:
    """Returns a small ViT whose attention is not uniform."""
    model = models.build(vit.TINY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def it_explains_two_images(method: str) -> None:
    """Checks that the method returns finite arrays and a drawing for two images."""
    found: object = explanation.explain(method, inputs(small_model()))
    if not isinstance(found, Explanation):
        raise ContractError(
            f"explain returned {type(found).__name__}; expected an Explanation(arrays=..., drawing=...)"
        )
    for name, array in found.arrays.items():
        expect(
            isinstance(name, str) and isinstance(array, np.ndarray),
            f"arrays[{name!r}] is {type(array).__name__}; expected a numpy array: tensor.cpu().numpy()",
        )
        expect(
            array.dtype.kind not in "fc" or np.isfinite(array).all(), f"arrays['{name}'] has values that are not finite"
        )
    kinds = get_args(Drawing)
    names = ", ".join(each.__name__ for each in kinds)
    expect(isinstance(found.drawing, kinds), f"the drawing is {type(found.drawing).__name__}; expected one of {names}")


def the_figure_and_the_arrays_can_be_saved(method: str) -> None:
    """Checks that the drawing can be saved as a PNG file, and the arrays as an .npz file."""
    found = explanation.explain(method, inputs(small_model()))
    with tempfile.TemporaryDirectory() as folder:
        found.save(Path(folder) / "figure.png")
        found.save_arrays(Path(folder) / "arrays.npz")
        with Image.open(Path(folder) / "figure.png") as image:
            expect(min(image.size) > 50, f"the figure has {image.size[0]} x {image.size[1]} pixels")
        with np.load(Path(folder) / "arrays.npz") as arrays:
            expect(set(arrays) == set(found.arrays), "the saved arrays have other names")


def the_model_is_unchanged(method: str) -> None:
    """Checks that the method changes no weights, removes its hooks and restores the mode of the model."""
    model = small_model()
    subject, before = inputs(model), {name: each.clone() for name, each in model.state_dict().items()}
    with torch.no_grad():
        expected = model(subject.pixels)
    explanation.explain(method, subject)
    hooks = [name for name, module in model.named_modules() if module._forward_hooks or module._forward_pre_hooks]
    expect(not hooks, f"the method has left a hook on '{hooks[0] if hooks else ''}'; remove it in a finally block")
    expect(not model.training, "the model is in training mode after the explanation")
    changed = [name for name, each in model.state_dict().items() if not torch.equal(each, before[name])]
    expect(not changed, f"the method has changed '{changed[0] if changed else ''}' of the model")
    with torch.no_grad():
        expect(torch.equal(model(subject.pixels), expected), "the model has other outputs after the explanation")


CHECKS = (it_explains_two_images, the_figure_and_the_arrays_can_be_saved, the_model_is_unchanged)
