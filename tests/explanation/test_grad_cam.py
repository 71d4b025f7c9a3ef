"""Grad-CAM of convolutional networks, against hooks on the last stage and a closed form."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import noise_images, small
from torch import Tensor

from vitkit import models
from vitkit.explanation import ExplainInputs, explain
from vitkit.explanation.gradient import grad_cam
from vitkit.models import Backbone


def by_hooks(model: Backbone, image: Tensor, index: int) -> Tensor:
    """The usual implementation: activations and gradients of the last stage by hooks, one channel at a time."""
    outputs: list[Tensor] = []
    handle = model.get_submodule("stages")[-1].register_forward_hook(lambda _, __, output: outputs.append(output))
    logits = model(image)
    handle.remove()
    activations = outputs[0]
    (gradient,) = torch.autograd.grad(logits[0, index], activations)
    total = torch.zeros(activations.shape[2:])
    for channel in range(activations.shape[1]):
        total += gradient[0, channel].mean() * activations[0, channel].detach()
    return total.clamp(min=0)


@pytest.mark.parametrize("family", ["resnet", "axial_resnet"])
def test_grad_cam_equals_the_usual_implementation(family: str) -> None:
    model = small(family)
    images = noise_images(model, factor=(1, 2))
    maps, classes = grad_cam(model, images, [1, 3])
    assert classes == [1, 3]
    assert maps.shape == (2, *model.features(images).grid)
    for number, index in enumerate(classes):
        expected = by_hooks(model, images[number : number + 1], index)
        torch.testing.assert_close(maps[number], expected, atol=1e-6, rtol=1e-5)
    assert maps.max() > 0


def test_the_map_of_a_linear_head_is_a_class_activation_map(stages: Backbone) -> None:
    """With mean pooling dy/dA_k is the weight of channel k divided by the number of positions (Zhou et al. 2016)."""
    images = noise_images(stages)
    maps, classes = grad_cam(stages, images)
    features = stages.features(images)
    assert classes == stages.logits(features).argmax(dim=1).tolist()
    weights = stages.head.weight[classes] / features.patches.shape[1]
    expected = torch.einsum("bk,bkrc->brc", weights, features.map).clamp(min=0)
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=1e-5)


def test_the_explanation_has_one_map_per_image_and_leaves_the_mode(stages: Backbone) -> None:
    stages.train()
    images = (Image.new("RGB", (40, 40)), Image.new("RGB", (40, 40)))
    pixels = noise_images(stages)
    explanation = explain("gradient", ExplainInputs(stages, pixels, images, tuple("abcde")), label="c")
    assert explanation.arrays["classes"].tolist() == [2, 2]
    assert np.isfinite(explanation.arrays["maps"]).all()
    assert explanation.drawing.title == "Grad-CAM of the last feature map"
    assert stages.training


def test_a_model_without_classes_or_a_class_out_of_range_is_rejected() -> None:
    model = small("resnet")
    with pytest.raises(ValueError, match="class 9 is out of range: the model has classes 0 to 4"):
        grad_cam(model, noise_images(model), [9, 9])
    headless = models.build(replace(model.config, num_classes=0))
    with pytest.raises(ValueError, match="this model has no classes"):
        grad_cam(headless, noise_images(headless))
