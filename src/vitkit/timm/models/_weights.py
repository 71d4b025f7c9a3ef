"""Loads checkpoints of any format into timm's models, and adapts the weights as timm does."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from vitkit import checkpoints
from vitkit.checkpoints import Checkpoint
from vitkit.checkpoints.formats import formats_for
from vitkit.checkpoints.locate import locate
from vitkit.layers import adapt_input_weight, resize_positions, resize_relative
from vitkit.models import Backbone
from vitkit.timm.layers import resample_patch_embed

HEADS = ("head", "head_dist")


def load_checkpoint(model: Any, checkpoint_path: str | os.PathLike[str], strict: bool = True) -> Any:
    """Loads the weights of a file or folder into a model, and returns the result of `load_state_dict`.

    Raises CheckpointError for an invalid file, and RuntimeError for weights of another model.
    """
    loaded = open_checkpoint(checkpoint_path, getattr(model.config, "num_heads", None))
    return load_weights(model, loaded, str(checkpoint_path), strict=strict)


def open_checkpoint(source: str | os.PathLike[str], num_heads: int | None) -> Checkpoint:
    """Loads a checkpoint of any format. `num_heads` is used for local files without a config.json."""
    local = Path(source).expanduser().exists() or ":" in os.fspath(source)
    bare = local and num_heads is not None and locate(os.fspath(source), None).config is None
    return checkpoints.load(source, dtype=None, config={"num_heads": num_heads} if bare else None)


def load_weights(
    model: Any,
    loaded: Checkpoint,
    source: str,
    *,
    strict: bool = True,
    other_head: bool = False,
    bilinear: bool = False,
) -> Any:
    """Loads the weights of a vitkit checkpoint into a model.

    Position tables, patch projection and input channels are adapted to the model. With `other_head`, the head keeps its
    random initialization. `bilinear` is the resizing of FlexiViT.
    """
    family = loaded.model.family
    if family != model.family:
        raise RuntimeError(f"{source} has the weights of the family {family}; expected {model.family} for this model")
    heads = getattr(loaded.model.config, "num_heads", None)
    if heads != getattr(model.config, "num_heads", None):
        raise RuntimeError(f"{source} has num_heads {heads}; expected {model.config.num_heads} for this model")
    state = timm_state(loaded.model)
    _fit(state, loaded.model, model, bilinear=bilinear)
    if other_head:
        dropped = (*HEADS, "pre_logits")
        state = {name: tensor for name, tensor in state.items() if name.partition(".")[0] not in dropped}
        result = model.load_state_dict(state, strict=False)
        missing = [name for name in result.missing_keys if name.partition(".")[0] not in HEADS]
        if strict and (missing or result.unexpected_keys):
            raise RuntimeError(
                f"Error(s) in loading state_dict for {type(model).__name__} from {source}: Missing key(s) {missing}; "
                f"Unexpected key(s) {list(result.unexpected_keys)}"
            )
        return result
    return model.load_state_dict(state, strict=strict)


def timm_state(model: Backbone) -> dict[str, Tensor]:
    """Returns the state dict of a vitkit model with timm's names."""
    form = next((each for each in formats_for("timm") if each.family == model.family), None)
    if form is None:
        raise RuntimeError(f"timm has no models of the family {model.family}")
    return form.table.saved(model.state_dict(), getattr(model.config, "num_heads", 1))


def _fit(state: dict[str, Tensor], source: Backbone, model: Any, *, bilinear: bool) -> None:
    """Adapts a state dict to the image size, patch size, channels and MLP layout of a model."""
    config, target = source.config, model.config
    wanted = model.state_dict()
    for name, tensor in list(state.items()):
        if name not in wanted and ".mlp.fc1." in name and name.replace("fc1", "fc1_g") in wanted:
            del state[name]
            state[name.replace("fc1", "fc1_g")], state[name.replace("fc1", "fc1_x")] = tensor.chunk(2)
    first = model.default_cfg.get("first_conv") or "patch_embed.proj"
    kernel, shape = state.get(f"{first}.weight"), getattr(wanted.get(f"{first}.weight"), "shape", None)
    if kernel is not None and shape is not None and kernel.shape != shape and kernel.ndim == 4:
        state[f"{first}.weight"] = _input_kernel(kernel, tuple(shape), bilinear=bilinear)
    if config.grid == target.grid:
        return
    for name, tensor in list(state.items()):
        if name == "pos_embed":
            state[name] = _positions(tensor, config.grid, target.grid, bilinear=bilinear)
        elif name.endswith("relative_position_bias_table"):
            state[name] = resize_relative(tensor, config.grid, target.grid, "geometric_linear")


def _input_kernel(kernel: Tensor, shape: tuple[int, ...], *, bilinear: bool) -> Tensor:
    kernel = adapt_input_weight(kernel, shape[1])
    how: Mapping[str, Any] = {"interpolation": "bilinear", "antialias": False} if bilinear else {}
    return resample_patch_embed(kernel, (shape[2], shape[3]), **how)


def _positions(table: Tensor, old: tuple[int, int], new: tuple[int, int], *, bilinear: bool) -> Tensor:
    special = table.shape[1] - old[0] * old[1]
    if not bilinear:
        return resize_positions(table[0], old, new, "bicubic_antialias", special=special)[None]
    first, patches = table.tensor_split([special], dim=1)
    grid = rearrange(patches.float(), "1 (r c) d -> 1 d r c", r=old[0])
    resized = F.interpolate(grid, size=new, mode="bilinear", align_corners=False)
    return torch.cat([first, rearrange(resized.to(table.dtype), "1 d r c -> 1 (r c) d")], dim=1)
