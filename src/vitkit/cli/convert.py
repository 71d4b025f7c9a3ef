"""`vitkit convert`."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


def convert(
    source: Annotated[Positional[str], arg(metavar="SOURCE")],
    target: Annotated[Positional[Path], arg(metavar="TARGET")],
    *,
    to: Literal["huggingface", "timm", "npz", "big_vision", "torchvision", "vitkit"],
    revision: str | None = None,
    set: tuple[str, ...] = (),  # noqa: A002 - the option's name
    overwrite: bool = False,
) -> None:
    """Rewrite a checkpoint in another dialect.

    Every tensor is accounted for: one too many, too few or of another shape is an error that names it.

    Args:
        source: A checkpoint: a folder, a file of any dialect, or a hub id.
        target: Where to write: a folder, or a file for npz and torchvision.
        to: The dialect to write.
        revision: Branch, tag or commit of a hub id.
        set: Fields of the model's config as NAME=VALUE, where the file cannot tell them (activation=gelu_tanh).
        overwrite: Replace a target that exists.
    """
    from vitkit import checkpoints
    from vitkit.cli._outcomes import settings

    checkpoint = checkpoints.load(source, revision=revision, config=settings(set))
    checkpoints.save(checkpoint, target, to=to, overwrite=overwrite)
    parameters = sum(parameter.numel() for parameter in checkpoint.model.parameters())
    print(f"{target}: {checkpoint.origin.format} to {to}, {parameters:,} parameters")
