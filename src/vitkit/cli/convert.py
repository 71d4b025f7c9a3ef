"""The `vitkit convert` command."""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from vitkit.cli._options import CheckpointOptions


def convert(
    source: Annotated[Positional[str], arg(metavar="SOURCE")],
    target: Annotated[Positional[Path], arg(metavar="TARGET")],
    *,
    to: str,
    patch_size: int | None = None,
    head: Path | None = None,
    overwrite: bool = False,
    lossy: bool = False,
    checkpoint: CheckpointOptions = CheckpointOptions(),  # noqa: B008 - frozen
) -> None:
    """Convert a checkpoint to another format.

    Missing, unexpected and wrongly shaped tensors raise an error that names them. The output is written to a temporary
    path, read back and compared with the source before it is moved to TARGET.

    Args:
        source: Checkpoint: a folder, a weights file, or a Hugging Face Hub id such as google/vit-base-patch16-224.
        target: Output folder, or output file if the format is npz, big_vision (.npz) or torchvision (.pth).
        to: Output format: huggingface, timm, npz, big_vision, torchvision, or vitkit. Only vitkit supports every model.
        patch_size: Resize the patch embedding to this patch size in pixels.
        head: File with a linear head, which is added to a DINO, DINOv2 or DINOv3 backbone without a head.
        overwrite: Replace an existing output file or folder.
        lossy: Leave out parts of the checkpoint that the output format cannot store, such as class names,
            preprocessing, the task or fields of the model config. A message names each part.
    """
    from vitkit import checkpoints
    from vitkit.checkpoints.formats import formats_for
    from vitkit.text import printable

    formats_for(to)  # raises for an unknown format, before the checkpoint is read
    loaded = checkpoints.load(source, patch_size=patch_size, head=head, **checkpoint.arguments())
    saved = checkpoints.save_checked(loaded, target, to=to, overwrite=overwrite, lossy=lossy)
    for each in saved.dropped:
        print(printable(f"vitkit: left out, because {saved.format} cannot store it: {each}"), file=sys.stderr)
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    print(printable(f"{target}: {loaded.origin.format} to {to}, {parameters:,} parameters"))
