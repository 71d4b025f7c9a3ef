"""The `vitkit export` command."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from vitkit.cli._options import CheckpointOptions, ImageOptions


def export(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    *,
    to: Literal["onnx", "openvino", "program"],
    out: Path | None = None,
    precision: Literal["float32", "float16", "int8"] = "float32",
    dynamic_size: bool = False,
    calibration: tuple[str, ...] = (),
    overwrite: bool = False,
    checkpoint: CheckpointOptions = CheckpointOptions(),  # noqa: B008 - frozen
    image: ImageOptions = ImageOptions(),  # noqa: B008 - frozen
) -> int:
    """Export a model to another runtime.

    The exported model is run on random images with batch sizes 1 and 3, or on the calibration images if it is an int8
    model. It is saved only if its outputs match those of MODEL. If calibration images cannot be read, they are listed
    and skipped, and the exit code is 2.

    The result is a folder with labels and preprocessing, which `vitkit classify`, `embed` and `evaluate` accept as
    MODEL. The batch size is dynamic. The image size is fixed unless --dynamic-size is set.

    Args:
        model: Checkpoint: a folder, a weights file, or a Hugging Face Hub id such as google/vit-base-patch16-224.
        to: Runtime of the exported model: onnx (ONNX Runtime and others), openvino, or program (torch.export, .pt2).
        out: Output folder. If not set: MODEL-RUNTIME in the current folder.
        precision: Numerical precision of the exported model. float16 requires --to onnx or openvino;
            int8 requires --to onnx and --calibration.
        dynamic_size: Export a model that accepts any image size and resizes its position embeddings. Needs --to onnx.
        calibration: Image files, folders or globs for the calibration of int8. Use about 100 images that are similar
            to the images at inference.
        overwrite: Replace an existing output folder.
    """
    from vitkit.api.export import export as export_model
    from vitkit.cli._outcomes import arguments_to_images, report_errors
    from vitkit.logs import LOGGER
    from vitkit.text import plural, printable

    exported = export_model(
        model,
        out,
        to=to,
        precision=precision,
        dynamic_size=dynamic_size,
        calibration=arguments_to_images(calibration) if calibration else (),
        limits=image.limits,
        **checkpoint.arguments(),
        overwrite=overwrite,
    )
    print(printable(f"{exported.folder}: {exported.describe()}"))
    if report_errors(exported.errors):
        LOGGER.warning("%s could not be read and left out", plural(len(exported.errors), "calibration image"))
    return 2 if exported.errors else 0
