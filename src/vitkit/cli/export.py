"""`vitkit export`."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


def export(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    *,
    to: Literal["onnx", "openvino", "program"],
    out: Path | None = None,
    precision: Literal["float32", "float16"] = "float32",
    image_size: int | None = None,
    revision: str | None = None,
    set: tuple[str, ...] = (),  # noqa: A002 - the option's name
    overwrite: bool = False,
) -> None:
    """Write a model for another runtime.

    The model that was written is run there on random images, one and three at a time, and kept only where its answers
    are the model's own. The result is a folder with labels and preprocessing in it, which `vitkit classify`, `embed`
    and `evaluate` take as a MODEL. Images have one size, fixed now; how many come at a time is free.

    Args:
        model: A checkpoint: a folder, a file of any dialect, or a hub id such as google/vit-base-patch16-224.
        to: The runtime: onnx (ONNX Runtime and others), openvino, or program (torch.export, .pt2).
        out: The folder to write; by default the model's name and the runtime's, here (best-onnx).
        precision: What the weights are kept in; float16, half the space, is for openvino.
        image_size: The side in pixels of the images it will take; the model's own if not given.
        revision: Branch, tag or commit of a hub id.
        set: Fields of the model's config as NAME=VALUE, where the file cannot tell them (pool=none).
        overwrite: Replace a folder that exists.
    """
    from vitkit import checkpoints, export
    from vitkit.cli._outcomes import settings

    folder = out or Path(f"{Path(model.partition('@')[0]).stem}-{to}")
    export.exporter(to)
    checkpoint = checkpoints.load(model, revision=revision, image_size=image_size, config=settings(set))
    found = export.export(checkpoint, folder, to=to, precision=precision, overwrite=overwrite)
    size = sum(path.stat().st_size for path in folder.iterdir())
    rows, columns = checkpoint.model.config.image_size
    print(
        f"{folder}: {to}, {size / 1e6:.1f} MB, images of {rows} x {columns}; its answers are the model's within "
        f"{found.difference:.1g}"
    )
