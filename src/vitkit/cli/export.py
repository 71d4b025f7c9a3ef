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
    """Export a model to another runtime.

    The exported model is run on random images with batch sizes 1 and 3 and saved only if its outputs match the model.
    The result is a folder with labels and preprocessing, which `vitkit classify`, `embed` and `evaluate` accept as
    MODEL. The image size is fixed, the batch size is dynamic.

    Args:
        model: A checkpoint: a folder, a file of any format, or a Hub id such as google/vit-base-patch16-224.
        to: Runtime: onnx (ONNX Runtime and others), openvino, or program (torch.export, .pt2).
        out: Output folder. If not set: MODEL-RUNTIME in the current folder.
        precision: Precision of the stored weights; float16 needs openvino.
        image_size: Input size in pixels. If not set: the model's.
        revision: Branch, tag or commit of a Hub id.
        set: Fields of the model config that a file does not contain, as NAME=VALUE (pool=none).
        overwrite: Overwrite an existing folder.
    """
    from vitkit import checkpoints
    from vitkit.cli._outcomes import settings
    from vitkit.inference import runtimes

    folder = out or Path(f"{Path(model.partition('@')[0]).stem}-{to}")
    runtimes.runtime(to)
    checkpoint = checkpoints.load(model, revision=revision, image_size=image_size, config=settings(set))
    found = runtimes.export(checkpoint, folder, to=to, precision=precision, overwrite=overwrite)
    size = sum(path.stat().st_size for path in folder.iterdir())
    rows, columns = checkpoint.model.config.image_size
    print(
        f"{folder}: {to}, {size / 1e6:.1f} MB, images of {rows} x {columns}; outputs match within "
        f"{found.difference:.1g}"
    )
