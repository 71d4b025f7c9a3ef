"""Runtimes: one module per runtime that exports a model and runs the export.

A module has `FILE` (the name of the model file), `TOLERANCES` (the supported precisions with the largest difference
allowed from the original model), `write(traced, path, precision)`, and `open_file(path, outputs)`, which returns a
function from images to outputs. Exports are untrusted files: no runtime executes code that a file contains.

An export is a folder with the model file, `config.json` (the model config, its labels and the export settings) and
`preprocessor_config.json`. `vitkit.load` and every command that predicts accept it in place of a checkpoint.
"""

import os
from dataclasses import replace
from pathlib import Path

from vitkit import models
from vitkit.checkpoints import Checkpoint
from vitkit.checkpoints.json_files import write_json
from vitkit.checkpoints.save import check_folder, write_folder
from vitkit.config import to_dict
from vitkit.inference.runtimes._exported import VERSION, Export, ExportedModel, is_export, load_export, runtime, targets
from vitkit.inference.runtimes._trace import Traced, differences, trace

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


class ExportError(ValueError):
    """Raised if the target does not support a model, or if the exported model has different outputs."""


def export(
    checkpoint: Checkpoint,
    folder: str | os.PathLike[str],
    *,
    to: str,
    precision: str = "float32",
    overwrite: bool = False,
) -> Export:
    """Exports a model to the target `to` and compares its outputs with the original.

    `precision` is the dtype of the exported weights. The image size is that of the model; the batch size is dynamic.
    The folder is written atomically. Returns the export settings with the measured difference.

    Raises ExportError if the target does not support the model or its outputs differ. Raises CheckpointError if the
    folder exists. Raises ImportError if a library of the target is missing.
    """
    module = runtime(to)
    if precision not in module.TOLERANCES:
        raise ValueError(f"{to} supports precision {' or '.join(module.TOLERANCES)}, not '{precision}'")
    target = Path(folder).expanduser()
    check_folder(target, overwrite=overwrite)
    traced = trace(checkpoint.model)
    exports: list[Export] = []

    def write(part: Path) -> None:
        try:
            module.write(traced, part / module.FILE, precision)
        except (ImportError, OSError):
            raise
        except Exception as error:
            raise ExportError(f"{to} does not support this model: {_one_line(error)}") from error
        exports.append(_write_json_files(checkpoint, traced, to, precision, part))
        _verify(checkpoint, part, exports, module.TOLERANCES[precision])

    write_folder(target, write, overwrite=overwrite)
    return exports[-1]


def _write_json_files(checkpoint: Checkpoint, traced: Traced, to: str, precision: str, part: Path) -> Export:
    """Writes config.json and preprocessor_config.json next to the model file."""
    export = Export(
        target=to,
        outputs=traced.outputs,
        grid=traced.grid,
        num_special=traced.num_special,
        width=checkpoint.model.width,
        precision=precision,
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
    """Loads the export as a user would. Raises ExportError if its outputs differ."""
    try:
        opened, _, _ = load_export(part)
        difference, scale = differences(checkpoint.model, opened)
    except ImportError:
        raise
    except Exception as error:
        raise ExportError(f"{exports[-1].target} cannot run the exported model: {_one_line(error, part)}") from error
    for name, value in difference.items():
        if not value <= tolerance * scale[name]:
            raise ExportError(
                f"the model exported to {exports[-1].target} has different {name}: the difference is {value:.2g}, "
                f"the limit is {tolerance * scale[name]:.2g}; no files were saved"
            )
    exports.append(replace(exports[-1], difference=max(difference.values())))
    _write_config(checkpoint, exports[-1], part)


def _one_line(error: Exception, part: Path | None = None) -> str:
    text = str(error).replace(f"{part}: ", "")
    return " ".join(text.split())[:300] or type(error).__name__
