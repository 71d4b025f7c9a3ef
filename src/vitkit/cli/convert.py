"""The `vitkit convert` command."""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


def convert(
    source: Annotated[Positional[str], arg(metavar="SOURCE")],
    target: Annotated[Positional[Path], arg(metavar="TARGET")],
    *,
    to: str,
    image_size: int | None = None,
    patch_size: int | None = None,
    head: Path | None = None,
    revision: str | None = None,
    set: tuple[str, ...] = (),  # noqa: A002 - the option's name
    overwrite: bool = False,
    lossy: bool = False,
) -> None:
    """Convert a checkpoint to another format.

    Missing, unexpected and wrongly shaped tensors raise an error that names them. The output is read back and compared
    before it gets its name.

    Args:
        source: Checkpoint: a folder, a weights file, or a Hugging Face Hub id such as google/vit-base-patch16-224.
        target: Output folder, or output file if the format is npz, big_vision (.npz) or torchvision (.pth).
        to: Output format: huggingface, timm, npz, big_vision, torchvision, or vitkit. Only vitkit supports every model.
        image_size: Resize the position embeddings for this image size in pixels.
        patch_size: Resize the patch embedding to this patch size in pixels.
        head: File with a linear head, which is added to a DINO, DINOv2 or DINOv3 backbone without a head.
        revision: Branch, tag or commit of the repository on the Hugging Face Hub.
        set: Set model config fields that are missing from the checkpoint, as NAME=VALUE, such as num_heads=12.
        overwrite: Replace an existing output file or folder.
        lossy: Leave out what the output format cannot store: class names, preprocessing, the task, fields of the model
            config. One line names each of them.
    """
    from vitkit import checkpoints
    from vitkit.cli._outcomes import settings
    from vitkit.config import nearest
    from vitkit.text import printable

    if to not in checkpoints.list_formats():
        raise ValueError(f"unknown format '{to}'{nearest(to, checkpoints.list_formats())}")
    checkpoint = checkpoints.load(
        source, revision=revision, image_size=image_size, patch_size=patch_size, head=head, config=settings(set)
    )
    saved = checkpoints.save_checked(checkpoint, target, to=to, overwrite=overwrite, lossy=lossy)
    for each in saved.dropped:
        print(printable(f"vitkit: left out, because {saved.format} cannot store it: {each}"), file=sys.stderr)
    parameters = sum(parameter.numel() for parameter in checkpoint.model.parameters())
    print(printable(f"{target}: {checkpoint.origin.format} to {to}, {parameters:,} parameters"))
