"""save_pretrained: config.json and model.safetensors as every version of transformers opens them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vitkit import atomic
from vitkit.transformers import hub
from vitkit.transformers.names import rename, to_v4, to_v5

if TYPE_CHECKING:
    from vitkit.transformers.pretrained import ViTPreTrainedModel


def save(
    model: "ViTPreTrainedModel",
    save_directory: str | os.PathLike[str],
    *,
    is_main_process: bool = True,
    state_dict: Mapping[str, Tensor] | None = None,
    push_to_hub: bool = False,
    max_shard_size: int | str = "5GB",
    safe_serialization: bool = True,
    variant: str | None = None,
    save_original_format: bool = True,
    **hub_options: Any,
) -> None:
    """Writes a folder, which is made; `push_to_hub` uploads it, with options of `hub.push_folder`.

    state_dict            what to write instead of the model's own tensors, in either family of names
    max_shard_size        in bytes or as "200MB"; larger weights become several files and an index
    variant               as in model.VARIANT.safetensors
    save_original_format  names before transformers 5.9, which every version reads; False writes the newer ones

    Raises ValueError for `safe_serialization=False`: a pickle can run code when it is read.
    """
    if not safe_serialization:
        raise ValueError(
            "safe_serialization=False would write a pickle, which can run code when read; it is not supported"
        )
    if not is_main_process:
        return
    folder = hub.made_folder(save_directory)
    model.config.architectures = [type(model).__name__]
    model.config.dtype = model.dtype
    model.config.save_pretrained(folder)
    written = _renamed(model, model.state_dict() if state_dict is None else state_dict, save_original_format)
    _write(written, folder, max_shard_size, variant)
    if push_to_hub:
        hub.push_folder(folder, ["config.json", "model*"], **hub_options)


def _renamed(model: "ViTPreTrainedModel", state_dict: Mapping[str, Tensor], older: bool) -> dict[str, Tensor]:
    state = dict(state_dict)
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    rename(state, prefix, to_v4 if older else to_v5)
    return state


def _write(state: Mapping[str, Tensor], folder: Path, max_shard_size: int | str, variant: str | None) -> None:
    from huggingface_hub import save_torch_state_dict

    name = f"model.{variant}" if variant else "model"
    save_torch_state_dict(
        dict(state),
        folder,
        filename_pattern=name + "{suffix}.safetensors",
        max_shard_size=max_shard_size,
        metadata={"format": "pt"},
    )
    index = folder / f"{name}.safetensors.index.json"
    if variant and index.exists():
        atomic.write_bytes(folder / f"model.safetensors.index.{variant}.json", index.read_bytes())
        index.unlink()
