"""Small models of timm and of `vitkit.timm` with equal random weights."""

from typing import Any

import torch
from oracles import oracle
from torch import Tensor, nn

import vitkit.timm as ours
from vitkit.checkpoints.formats.timm._architectures import architectures

theirs = oracle("timm")

SIZES: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
HYBRID = SIZES | {"img_size": 64, "patch_size": 1}
# One architecture of every kind of arguments.
KINDS = [
    "vit_base_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_giant_patch14_dinov2",
    "vit_medium_patch16_reg4_gap_256",
    "vit_so400m_patch16_siglip_256",
    "vit_base_patch16_siglip_gap_224",
    "vit_so150m_patch16_reg4_map_256",
    "deit3_small_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "beit_base_patch16_224",
    "vit_small_patch16_dinov3",
    "vit_small_plus_patch16_dinov3_qkvb",
    "vit_tiny_r_s16_p8_224",
    "vit_base_patch32_clip_quickgelu_224",
    "vit_intern300m_patch14_448",
]


def sizes(name: str) -> dict[str, Any]:
    """Returns arguments that make the model of an architecture small."""
    module = architectures()[name].module
    if module == "resnetv2":
        return {"num_classes": 5}  # timm's entry points set the layers
    return HYBRID if module == "vision_transformer_hybrid" else SIZES


def fill(model: nn.Module) -> nn.Module:
    """Adds noise to every parameter, so that all values differ and no part is zero."""
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.1)
    return model.eval()


def pair(name: str, **changes: Any) -> tuple[Any, Any]:
    """Returns timm's model and vitkit's with the same weights, in evaluation mode."""
    arguments = sizes(name) | changes
    model = fill(theirs.create_model(name, **arguments))
    own = ours.create_model(name, **arguments).eval()
    own.load_state_dict(model.state_dict())
    # The ResNets have up to 200 layers, in which rounding errors of float32 add up.
    deep = architectures()[name].module == "resnetv2"
    return (model.double(), own.double()) if deep else (model, own)


def images(model: Any, count: int = 2, channels: int = 3) -> Tensor:
    """Returns random images of the native size of a model."""
    rows, columns = (getattr(model, "patch_embed", None) and model.patch_embed.img_size) or (64, 64)
    batch = torch.randn(count, channels, rows, columns, generator=torch.Generator().manual_seed(1))
    return batch.to(next(model.parameters()).dtype)


def assert_close(own: Any, model: Any) -> None:
    """Compares tensors, and lists, tuples and dicts of tensors, up to 1e-5 of their magnitude."""
    assert type(own) is type(model)
    if isinstance(model, Tensor):
        assert own.shape == model.shape
        scale = max(1.0, float(model.detach().abs().max()))
        assert float((own - model).detach().abs().max()) <= 1e-5 * scale
    elif isinstance(model, dict):
        assert own.keys() == model.keys()
        assert_close(list(own.values()), list(model.values()))
    else:
        assert len(own) == len(model)
        for one, other in zip(own, model, strict=True):
            assert_close(one, other)
