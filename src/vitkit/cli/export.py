"""The `vitkit export` command."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


def export(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    *,
    to: Literal["onnx", "openvino", "program"],
    out: Path | None = None,
    precision: Literal["float32", "float16", "int8"] = "float32",
    dynamic_size: bool = False,
    calibration: tuple[str, ...] = (),
    max_pixels: int | None = None,
    max_bytes: int | None = None,
    image_size: int | None = None,
    revision: str | None = None,
    set: tuple[str, ...] = (),  # noqa: A002 - the option's name
    overwrite: bool = False,
) -> int:
    """Export a model to another runtime.

    The exported model is run on random images with batch sizes 1 and 3 (an int8 model on the calibration images), and
    saved only if its outputs match those of MODEL. Unreadable calibration images are skipped and named, and the exit
    code is 2.

    The result is a folder with labels and preprocessing, which `vitkit classify`, `embed` and `evaluate` accept as
    MODEL. The batch size is dynamic; the image size is fixed without --dynamic-size.

    Args:
        model: Checkpoint: a folder, a weights file, or a Hugging Face Hub id such as google/vit-base-patch16-224.
        to: Runtime of the exported model: onnx (ONNX Runtime and others), openvino, or program (torch.export, .pt2).
        out: Output folder. If not set: MODEL-RUNTIME in the current folder.
        precision: Numerical precision of the exported model. float16 requires --to onnx or openvino;
            int8 requires --to onnx and --calibration.
        dynamic_size: Export a model that accepts any image size and resizes its position embeddings. Needs --to onnx.
        calibration: Image files, folders or globs for the calibration of int8. Use about 100 images that are similar
            to the images at inference.
        max_pixels: Largest accepted calibration image, in pixels (width x height). If not set: 120,000,000.
        max_bytes: Largest accepted file of a calibration image, in bytes. If not set: 200,000,000.
        image_size: Input size in pixels. If not set: the image size of the model.
        revision: Branch, tag or commit of the repository on the Hugging Face Hub.
        set: Set model config fields that are missing from the checkpoint, as NAME=VALUE, such as num_heads=12.
        overwrite: Replace an existing output folder.
    """
    from vitkit.api.export import export as export_model
    from vitkit.cli._outcomes import arguments_to_images, limits, report_errors, settings
    from vitkit.logs import LOGGER
    from vitkit.text import plural, printable

    exported = export_model(
        model,
        out,
        to=to,
        precision=precision,
        dynamic_size=dynamic_size,
        calibration=arguments_to_images(calibration) if calibration else (),
        limits=limits(max_pixels, max_bytes),
        image_size=image_size,
        revision=revision,
        config=settings(set),
        overwrite=overwrite,
    )
    print(printable(f"{exported.folder}: {exported.describe()}"))
    if report_errors(exported.errors):
        LOGGER.warning("%s could not be read and left out", plural(len(exported.errors), "calibration image"))
    return 2 if exported.errors else 0
