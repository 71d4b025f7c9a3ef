"""Exports models to other runtimes. The module of each runtime also runs the models exported to it.

A module has `FILE` (the name of the model file), `TOLERANCES` (the supported precisions with the largest difference
allowed from the original model), `write(traced, path, precision)`, and `open_file(path, outputs)`, which returns a
function from images to outputs. Optional are `DYNAMIC_SIZE = True`, for graphs that run with every image size,
`DTYPES`, the dtypes in which a model is traced by precision, and `quantize(source, target, images)`, which makes the
precision `int8`. Exports are untrusted files: no runtime executes code that a file contains.

An export is a folder with the model file, `config.json` (the model config, its labels and the export settings) and
`preprocessor_config.json`. `vitkit.load` and every command that predicts accept it in place of a checkpoint.
"""

import copy
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitkit import models
from vitkit.checkpoints import Checkpoint
from vitkit.checkpoints.json_files import write_json
from vitkit.checkpoints.save import check_folder, write_folder
from vitkit.config import to_dict
from vitkit.data.processor import ImageInput, named
from vitkit.images import DEFAULT_LIMITS, Limits
from vitkit.inference.engine.path import probe
from vitkit.inference.engine.watch import is_hooked
from vitkit.inference.runtimes import _quantized
from vitkit.inference.runtimes._exported import VERSION, Export, ExportedModel, is_export, load_export, runtime, targets
from vitkit.inference.runtimes._trace import Traced, differences, sizes_to_test, trace
from vitkit.layers import eval_mode
from vitkit.logs import LOGGER

__all__ = [
    "Export",
    "ExportError",
    "ExportedModel",
    "Traced",
    "export",
    "is_export",
    "load_export",
    "runtime",
    "targets",
]


#: Largest number of calibration images.
MAX_CALIBRATION = 512


class ExportError(ValueError):
    """Raised if the runtime does not support a model, or if the outputs of the original and exported model differ."""


def export(
    checkpoint: Checkpoint,
    folder: str | os.PathLike[str],
    *,
    to: str,
    precision: str = "float32",
    dynamic_size: bool = False,
    calibration: Iterable[ImageInput] = (),
    limits: Limits = DEFAULT_LIMITS,
    skipped: Callable[[Exception], object] | None = None,
    overwrite: bool = False,
) -> Export:
    """Exports a model to the runtime `to` and compares the outputs with those of the original model.

    `precision` is the dtype of the exported weights. For int8, the ranges of activations are measured on the images in
    `calibration`. Use about a hundred images that are similar to the images at inference. `limits` are limits of image
    files. If an image cannot be read, it is left out and `skipped` is called with the error, which contains the name of
    the image. If `skipped` is None, the error is logged. The batch size is dynamic. The image size is that of the
    model, or dynamic with `dynamic_size`: the graph then resizes the position table. The folder is written atomically.
    Returns the export settings with the measured difference of the outputs.

    Raises ValueError if no calibration image can be read. Raises ExportError if the runtime does not support the model,
    or if the outputs of the exported model differ. Raises CheckpointError if the folder exists. Raises ImportError if a
    library of the runtime is not installed.
    """
    module = runtime(to)
    if checkpoint.model.is_exported:
        raise ExportError(
            "the model is an export already and cannot be exported again; load the original checkpoint instead"
        )
    if precision not in module.TOLERANCES:
        raise ValueError(f"the precision is '{precision}', but {to} supports only {' and '.join(module.TOLERANCES)}")
    if dynamic_size and not getattr(module, "DYNAMIC_SIZE", False):
        raise ValueError(f"an export to {to} has a fixed image size; use --to onnx for a dynamic size")
    images = _calibration_images(checkpoint, precision, calibration, limits, skipped or _warn)
    target = Path(folder).expanduser()
    check_folder(target, overwrite=overwrite)
    _check_outputs(checkpoint)
    dtype = getattr(module, "DTYPES", {}).get(precision, torch.float32)
    traced = _trace_or_raise(checkpoint.model, dynamic_size, dtype)
    exports: list[Export] = []

    def write(part: Path) -> None:
        try:
            module.write(traced, part / module.FILE, precision)
            if images is not None:
                module.quantize(part / module.FILE, part / module.FILE, images)
        except (ImportError, OSError):
            raise
        except Exception as error:
            raise ExportError(f"{to} does not support this model: {_one_line(error)}") from error
        settings = {"target": to, "precision": precision, "dynamic_size": dynamic_size}
        exports.append(_write_json_files(checkpoint, traced, settings, part))
        if images is None:
            _verify(checkpoint, part, exports, module.TOLERANCES[precision])
        else:
            _verify_quantized(checkpoint, part, exports, images)

    write_folder(target, write, overwrite=overwrite)
    return exports[-1]


def _check_outputs(checkpoint: Checkpoint) -> None:
    """Raises ExportError if the model has forward hooks, or if its number of outputs and labels differ."""
    model, labels = checkpoint.model, len(checkpoint.labels)
    if isinstance(model, ExportedModel) or not labels:
        return  # an exported model is rejected when it is traced
    if is_hooked(model):
        raise ExportError(
            "a forward hook on the model, or a replaced forward method, would not be exported; remove it first"
        )
    try:
        with torch.no_grad(), eval_mode(model):
            outputs = model(probe(model).to(next(model.parameters()).dtype)).shape[-1]
    except RuntimeError as error:
        raise ExportError(f"the model cannot run: {_one_line(error)}") from error
    if outputs != labels:
        raise ExportError(
            f"the model has {outputs} outputs, but there are {labels} labels; replace a head with "
            "model.reset_head(classes), and set one label per output"
        )


def _warn(error: Exception) -> None:
    LOGGER.warning("skipped a calibration image: %s", error)


def _calibration_images(
    checkpoint: Checkpoint,
    precision: str,
    images: Iterable[ImageInput],
    limits: Limits,
    skipped: Callable[[Exception], object],
) -> Tensor | None:
    """Returns the preprocessed calibration images for int8, or None for other precisions."""
    found = list(islice(images, MAX_CALIBRATION))
    if precision != "int8":
        if found:
            raise ValueError(
                f"only int8 uses calibration images, but the precision is {precision}; omit the images or use int8"
            )
        return None
    if not found:
        raise ValueError("int8 needs calibration images; pass about 100 images similar to those used at inference")
    arrays: list[np.ndarray] = []
    failed: list[Exception] = []
    for index, image in enumerate(found):
        try:
            arrays.append(checkpoint.processor.array(image, limits=limits))
        except (ValueError, TypeError) as error:
            failed.append(named(error, image, index))
    if not arrays:
        raise ValueError(f"none of {len(found)} calibration images could be read; the first error is: {failed[0]}")
    if len({array.shape for array in arrays}) > 1:
        raise ValueError("calibration images have different sizes after preprocessing; pass images of one size")
    for error in failed:
        skipped(error)
    return torch.from_numpy(np.stack(arrays))


def _trace_or_raise(model: models.Backbone, dynamic_size: bool, dtype: torch.dtype) -> Traced:
    """Traces a model. Raises ExportError if a dynamic image size is requested and tracing fails."""
    try:
        return trace(model, dynamic_size=dynamic_size, dtype=dtype)
    except Exception as error:
        if not dynamic_size:
            raise
        raise ExportError(_one_line(error)) from error


def _write_json_files(checkpoint: Checkpoint, traced: Traced, settings: dict[str, Any], part: Path) -> Export:
    """Writes config.json and preprocessor_config.json next to the model file."""
    export = Export(
        outputs=traced.outputs,
        grid=traced.grid,
        num_special=traced.num_special,
        width=checkpoint.model.width,
        **settings,
    )
    _write_config(checkpoint, export, part)
    write_json(checkpoint.processor.to_huggingface(), part / "preprocessor_config.json")
    return export


def _write_config(checkpoint: Checkpoint, export: Export, part: Path) -> None:
    config_json = {
        "vitkit": VERSION,
        "export": to_dict(export),
        "model": models.to_dict(checkpoint.model.config),
        "labels": list(checkpoint.labels),
    }
    write_json(config_json, part / "config.json")


def _verify(checkpoint: Checkpoint, part: Path, exports: list[Export], tolerance: float) -> None:
    """Loads and runs the exported model. Raises ExportError if its outputs differ from those of the original model."""
    try:
        opened, _, _ = load_export(part)
        difference, scale = differences(checkpoint.model, opened, dynamic_size=exports[-1].dynamic_size)
    except ImportError:
        raise
    except Exception as error:
        raise ExportError(f"{exports[-1].target} cannot run the exported model: {_one_line(error, part)}") from error
    for name, value in difference.items():
        if not value <= tolerance * scale[name]:
            raise ExportError(
                f"the {name} of the model exported to {exports[-1].target} differ from those of the original model "
                f"by {value:.2g}; the limit is {tolerance * scale[name]:.2g}, so no files were saved"
            )
    exports.append(replace(exports[-1], difference=max(difference.values())))
    _write_config(checkpoint, exports[-1], part)


def _verify_quantized(checkpoint: Checkpoint, part: Path, exports: list[Export], images: Tensor) -> None:
    """Runs an int8 export on the calibration images. Raises ExportError if the outputs differ too much."""
    model = copy.deepcopy(checkpoint.model).to("cpu", torch.float32).eval()
    try:
        opened, _, _ = load_export(part)
        off, agreement = _quantized.compare(model, opened, images)
        sizes = sizes_to_test(model, dynamic_size=exports[-1].dynamic_size)
        for height, width in sizes:
            opened(torch.zeros(2, model.config.channels, height, width))
    except Exception as error:
        raise ExportError(f"{exports[-1].target} cannot run the exported model: {_one_line(error, part)}") from error
    if reason := _quantized.differs(off, agreement, images.shape[0]):
        raise ExportError(f"the int8 model is not accurate enough: {reason}; no files were saved")
    exports.append(replace(exports[-1], difference=off, agreement=agreement))
    _write_config(checkpoint, exports[-1], part)


def _one_line(error: Exception, part: Path | None = None) -> str:
    text = str(error).replace(f"{part}: ", "")
    return " ".join(text.split())[:300] or type(error).__name__
