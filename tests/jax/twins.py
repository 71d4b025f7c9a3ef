"""Both twins with the same random weights, and their answers to the same pictures."""

from typing import Any

import jax
import numpy as np
import torch

from vitkit import models
from vitkit.jax.convert import nest, to_flax
from vitkit.jax.vit import ViT
from vitkit.models.vit import Config

TINY = Config(image_size=(32, 32), patch_size=(8, 8), width=32, depth=2, num_heads=4, mlp_width=64, num_classes=5)


def torch_twin(config: Config, *, seed: int = 0) -> torch.nn.Module:
    """The PyTorch model with every parameter random: fresh ones are zero where nothing would show."""
    torch.manual_seed(seed)
    model = models.build(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or parameter.shape[:2] == (1, 1) or name.startswith("head"):
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def params_of(model: torch.nn.Module) -> dict[str, Any]:
    """Its parameters as the Flax tree."""
    return nest(to_flax(model.state_dict(), model.config.num_heads))


def pictures(*shape: int, seed: int = 0) -> np.ndarray:
    """Random pictures (b, height, width, c)."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def answers(config: Config, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What PyTorch and what Flax say, with the same weights, of the same pictures."""
    model = torch_twin(config)
    with torch.no_grad():
        expected = model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    given = jax.jit(ViT(config).apply)({"params": params_of(model)}, images)
    return expected, np.asarray(given)
