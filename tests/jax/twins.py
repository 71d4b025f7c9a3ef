"""PyTorch and Flax models with the same random weights, and their outputs for the same images."""

from typing import Any

import jax
import numpy as np
import torch

from vitkit import models
from vitkit.jax.convert import nest, to_flax
from vitkit.jax.vit import ViT
from vitkit.models.vit import Config

TINY = Config(image_size=(32, 32), patch_size=(8, 8), width=32, depth=2, num_heads=4, mlp_width=64, num_classes=5)


def torch_model(config: Config, *, seed: int = 0) -> torch.nn.Module:
    """Creates a PyTorch model with random parameters, also where the initial values are zero or one."""
    torch.manual_seed(seed)
    model = models.build(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or parameter.shape[:2] == (1, 1) or name.startswith("head"):
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def flax_params(model: torch.nn.Module) -> dict[str, Any]:
    """Converts the parameters of a PyTorch model to a Flax tree."""
    return nest(to_flax(model.state_dict(), model.config.num_heads))


def random_images(*shape: int, seed: int = 0) -> np.ndarray:
    """Returns random images (b, height, width, c)."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def outputs_of_both(config: Config, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the outputs of the PyTorch and the Flax model with the same weights."""
    model = torch_model(config)
    with torch.no_grad():
        expected = model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    given = jax.jit(ViT(config).apply)({"params": flax_params(model)}, images)
    return expected, np.asarray(given)
