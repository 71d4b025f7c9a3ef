"""`vitkit.export`: exports a model to another runtime."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vitkit.api._model import Model, Size, opened
from vitkit.data.processor import ImageInput
from vitkit.images import DEFAULT_LIMITS, Limits
from vitkit.inference import Classifier, load, runtimes
from vitkit.text import percent, printable

# The modules of `vitkit.inference.runtimes`.
Target = Literal["onnx", "openvino", "program"]


@dataclass(frozen=True, repr=False)
class Exported:
    """An exported model, with its folder, the export settings, and the errors of unreadable calibration images.

    This object is path-like: `vitkit.load(exported)` and `vitkit.classify(exported, images)` accept it.
    """

    folder: Path
    settings: runtimes.Export
    image_size: tuple[int, int]
    errors: tuple[Exception, ...] = ()

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def num_bytes(self) -> int:
        """Size of all files in the folder in bytes."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def load(self) -> Classifier:
        """Loads the exported model as a classifier."""
        return load(self.folder)

    def describe(self) -> str:
        """Returns one line with the runtime, file size, image size, and difference from the original outputs."""
        settings = self.settings
        rows, columns = self.image_size
        images = "images of every size" if settings.dynamic_size else f"images of {rows} x {columns}"
        match = f"outputs match within {settings.difference:.1g}"
        if settings.agreement is not None:
            match = (
                f"outputs differ by {percent(settings.difference)}, predictions agree on "
                f"{percent(settings.agreement)} of the images"
            )
        return f"{settings.target}, {self.num_bytes / 1e6:.1f} MB, {images}; {match}"

    def __repr__(self) -> str:
        return f"Exported({printable(self.folder)!r}: {self.describe()})"


def export(
    model: Model,
    folder: str | os.PathLike[str] | None = None,
    *,
    to: Target,
    precision: Literal["float32", "float16", "int8"] = "float32",
    dynamic_size: bool = False,
    calibration: ImageInput | Iterable[ImageInput] = (),
    limits: Limits | None = None,
    image_size: Size | None = None,
    revision: str | None = None,
    config: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Exported:
    """Exports a model to another runtime, and compares the outputs of the exported and the original model.

    >>> import vitkit
    >>> exported = vitkit.export("google/vit-base-patch16-224", "vit-program", to="program")
    >>> exported.settings.difference
    >>> vitkit.classify(exported, "cat.jpg")

    Args:
        model: A classifier of `vitkit.load`, a folder, a file or a Hub id such as google/vit-base-patch16-224.
        folder: Output folder. If None: MODEL-RUNTIME in the current folder.
        to: Runtime of the exported model: onnx (ONNX Runtime and others), openvino, or program (torch.export, .pt2).
        precision: Numerical precision of the exported model. float16 requires onnx or openvino; int8 requires onnx and
            calibration.
        dynamic_size: Export a model that accepts any image size and resizes its position embeddings. Needs onnx.
        calibration: Images for the calibration of int8, as for `vitkit.classify`. Use about 100 images that are similar
            to the images at inference. Images that cannot be read are left out, and the result contains their errors.
        limits: Limits of the image files.
        image_size: Input size in pixels, a number or (height, width). If None: the image size of the model.
        revision: Branch, tag or commit of the repository on the Hub.
        config: Fields of the model config that the checkpoint does not state, such as {"num_heads": 12}.
        overwrite: Replace an existing output folder.

    Raises ValueError (`runtimes.ExportError`) if the runtime does not support the model, or if the outputs of the
    exported model differ from those of the original. Raises ImportError if a library of the runtime is not installed.
    """
    runtimes.runtime(to)
    if folder is None:
        source = model.origin.source if isinstance(model, Classifier) and model.origin else model
        name = Path("model" if isinstance(source, Classifier) else os.fspath(source).partition("@")[0]).stem
        folder = f"{name or 'model'}-{to}"
    classifier = opened(model, revision=revision, image_size=image_size, config=config)
    skipped: list[Exception] = []
    settings = runtimes.export(
        classifier.checkpoint(),
        folder,
        to=to,
        precision=precision,
        dynamic_size=dynamic_size,
        calibration=classifier.images(calibration),
        limits=limits or DEFAULT_LIMITS,
        skipped=skipped.append,
        overwrite=overwrite,
    )
    rows, columns = classifier.config.image_size
    return Exported(Path(folder).expanduser(), settings, (rows, columns), tuple(skipped))
