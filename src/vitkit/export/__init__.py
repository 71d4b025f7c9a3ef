"""Export: a model as a file for another runtime, kept only where it gives the model's own answers.

An exporter is a file here, named as its target and as the backend in `predict.backends` that runs what it writes. It
has `write(traced, path, precision)`, which writes the model's file, and `TOLERANCES`: the precisions it can write with
how far each may differ. A new target is one file here and one there.

The result is a folder: the model's file, `config.json` (the model's config, its labels, and what was exported) and
`preprocessor_config.json`. `vitkit.load` and every command that predicts take it in place of a checkpoint.
"""

import importlib
import os
import pkgutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from vitkit import models
from vitkit.checkpoints import Checkpoint
from vitkit.checkpoints.atomic import check_folder, write_folder
from vitkit.checkpoints.json_files import write_json
from vitkit.config import nearest, to_dict
from vitkit.export.parity import differences
from vitkit.export.trace import Traced, trace
from vitkit.predict.backends import VERSION, Export, backend, exported

__all__ = ["ExportError", "Traced", "export", "exporter", "targets"]


class ExportError(ValueError):
    """A model that the target cannot express, or that answers otherwise once exported; nothing was kept."""


def targets() -> list[str]:
    """The names that `to=` takes: the files of this folder that write."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if hasattr(_module(module.name), "write"))


def exporter(target: str) -> ModuleType:
    """The module of one target; ValueError where there is no such file."""
    if target not in targets():
        raise ValueError(f"unknown export target '{target}'{nearest(target, targets())}")
    return _module(target)


def export(
    checkpoint: Checkpoint,
    folder: str | os.PathLike[str],
    *,
    to: str,
    precision: str = "float32",
    overwrite: bool = False,
) -> Export:
    """Writes the checkpoint's model for the target `to` into `folder`, runs it there, and compares it with the model.

    `precision` is that of the weights in the file. The size of the images is the model's own; the batch is free. The
    folder appears whole or not at all. Returns what was exported.

    Raises ExportError where the target cannot express the model or gives other answers, CheckpointError for a folder
    that is there, ImportError where the target's libraries are not.
    """
    module = exporter(to)
    if precision not in module.TOLERANCES:
        raise ValueError(f"{to} is written in {' or '.join(module.TOLERANCES)}, not in '{precision}'")
    target = Path(folder).expanduser()
    check_folder(target, overwrite=overwrite)
    traced = trace(checkpoint.model)
    found: list[Export] = []

    def write(part: Path) -> None:
        try:
            module.write(traced, part / backend(to).FILE, precision)
        except (ImportError, OSError):
            raise
        except Exception as error:
            raise ExportError(f"{to} cannot express this model: {_line(error)}") from error
        found.append(_described(checkpoint, traced, to, precision, part))
        _judge(checkpoint, part, found, module.TOLERANCES[precision])

    write_folder(target, write, overwrite=overwrite)
    return found[-1]


def _described(checkpoint: Checkpoint, traced: Traced, to: str, precision: str, part: Path) -> Export:
    """config.json and preprocessor_config.json beside the model's file."""
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
    stated = {
        "vitkit": VERSION,
        "export": to_dict(export),
        "model": models.to_dict(checkpoint.model.config),
        "labels": list(checkpoint.labels),
    }
    write_json(stated, part / "config.json")


def _judge(checkpoint: Checkpoint, part: Path, found: list[Export], tolerance: float) -> None:
    """Opens what was written as a user will, and refuses it where it differs."""
    try:
        opened, _, _ = exported(part)
        difference, scale = differences(checkpoint.model, opened)
    except ImportError:
        raise
    except Exception as error:
        raise ExportError(f"{found[-1].target} does not run this model once exported: {_line(error, part)}") from error
    for name, value in difference.items():
        if not value <= tolerance * scale[name]:
            raise ExportError(
                f"the model exported to {found[-1].target} gives other {name}: they differ by {value:.2g}, where "
                f"{tolerance * scale[name]:.2g} is allowed; nothing was kept"
            )
    found.append(replace(found[-1], difference=max(difference.values())))
    _write_config(checkpoint, found[-1], part)


def _line(error: Exception, part: Path | None = None) -> str:
    text = str(error).replace(f"{part}: ", "")
    return " ".join(text.split())[:300] or type(error).__name__


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
