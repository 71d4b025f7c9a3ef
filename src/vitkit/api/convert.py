"""`vitkit.convert`: converts a checkpoint to another format."""

import os
from collections.abc import Mapping
from typing import Any

from vitkit import checkpoints
from vitkit.api._model import Size
from vitkit.checkpoints import Checkpoint
from vitkit.checkpoints.formats import formats_for


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    to: str,
    *,
    image_size: Size | None = None,
    patch_size: Size | None = None,
    head: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    config: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    lossy: bool = False,
) -> Checkpoint:
    """Converts a checkpoint to another format. Returns the checkpoint that was written.

    >>> import vitkit
    >>> checkpoint = vitkit.convert("ViT-B_16.npz", "vit-b", to="huggingface")
    >>> checkpoint.labels[:2]

    Args:
        source: A folder, a file, or a Hub id such as google/vit-base-patch16-224.
        target: Output folder, or output file if the format is npz, big_vision (.npz) or torchvision (.pth).
        to: Output format: huggingface, timm, npz, big_vision, torchvision, or vitkit. Only vitkit supports every model.
        image_size: Input size in pixels, a number or (height, width). The position embeddings are resized.
        patch_size: Patch size in pixels, a number or (height, width). The patch embedding is resized.
        head: File with a linear head, which is added to a DINO, DINOv2 or DINOv3 backbone without a head.
        revision: Branch, tag or commit of the repository on the Hub.
        config: Fields of the model config that the checkpoint does not state, such as {"num_heads": 12}.
        overwrite: Replace an existing output file or folder.
        lossy: Leave out parts of the checkpoint that the output format cannot store, such as class names,
            preprocessing, the task or fields of the model config. A warning names each part.

    The output is written to a temporary path, read back and compared with the source before it is moved to `target`.
    Raises CheckpointError with the names of missing, unexpected and wrongly shaped tensors. Raises CheckpointError if
    the format cannot store a part of the checkpoint, unless `lossy` is True.
    """
    formats_for(to)  # raises for an unknown format, before the checkpoint is read
    return checkpoints.convert(
        source,
        target,
        to,
        overwrite=overwrite,
        lossy=lossy,
        image_size=image_size,
        patch_size=patch_size,
        head=head,
        revision=revision,
        config=config,
    )
