"""`vitkit convert`."""

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
) -> None:
    """Rewrite a checkpoint in another dialect.

    Every tensor is accounted for: one too many, too few or of another shape is an error that names it.

    Args:
        source: A checkpoint: a folder, a file of any dialect, or a hub id.
        target: Where to write: a folder, or a file for npz and big_vision (.npz) and torchvision (.pth).
        to: The dialect to write: huggingface, timm, npz, big_vision, torchvision, or vitkit (any model).
        image_size: Resize the position table to images of this side in pixels.
        patch_size: Resize the patch projection to patches of this side in pixels, and the positions with it.
        head: A file with a linear head for a backbone published without one (DINO, DINOv2, DINOv3).
        revision: Branch, tag or commit of a hub id.
        set: Fields of the model's config as NAME=VALUE, where the file cannot tell them (activation=gelu_tanh).
        overwrite: Replace a target that exists.
    """
    from vitkit import checkpoints
    from vitkit.cli._outcomes import settings
    from vitkit.config import nearest

    if to not in checkpoints.list_formats():
        raise ValueError(f"unknown dialect '{to}'{nearest(to, checkpoints.list_formats())}")
    checkpoint = checkpoints.load(
        source, revision=revision, image_size=image_size, patch_size=patch_size, head=head, config=settings(set)
    )
    checkpoints.save(checkpoint, target, to=to, overwrite=overwrite)
    parameters = sum(parameter.numel() for parameter in checkpoint.model.parameters())
    print(f"{target}: {checkpoint.origin.format} to {to}, {parameters:,} parameters")
