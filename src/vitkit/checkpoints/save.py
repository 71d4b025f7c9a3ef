"""Saves a checkpoint in any format that supports its model. Files are written atomically and verified."""

import copy
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitkit import atomic
from vitkit.checkpoints import meaning, verify
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError
from vitkit.checkpoints.formats import Format, formats_for
from vitkit.checkpoints.formats._unsupported import ImpliedMismatch
from vitkit.checkpoints.load import describe, load


class LossyWarning(UserWarning):
    """Warning for data that a checkpoint format cannot hold and that were left out (`lossy=True`)."""


@dataclass(frozen=True)
class Saved:
    """The format in which a checkpoint was saved, and descriptions of what the format could not hold."""

    format: str
    dropped: tuple[str, ...] = ()


def save(
    checkpoint: Checkpoint,
    target: str | os.PathLike[str],
    *,
    to: str | None = None,
    overwrite: bool = False,
    lossy: bool = False,
) -> str:
    """Writes a checkpoint in the format `to` and returns the name of the format, such as "timm".

    `to` is one of `list_formats()`. The default is huggingface if it supports the model, else vitkit. The target is a
    folder, or a file for npz, big_vision and torchvision. It is written atomically. The written files are read back and
    compared before they get the name of the target: `load(target, dtype=None)` returns an equal checkpoint.

    An existing target is an error unless `overwrite` is True. Raises CheckpointError with the reason if the model
    cannot be stored or has no weights, and if the format cannot hold the class names, the preprocessing, the task or a
    field of the config. With `lossy`, data that the format cannot hold are left out, with a `LossyWarning` for each.
    """
    saved = save_checked(checkpoint, target, to=to, overwrite=overwrite, lossy=lossy)
    for each in saved.dropped:
        warnings.warn(f"{saved.format} cannot hold {each}; left out", LossyWarning, stacklevel=2)
    return saved.format


def convert_config(source: str | os.PathLike[str], target: str | os.PathLike[str], to: str) -> None:
    """Writes the JSON files that `convert` writes, without reading or writing the weights.

    `to` is a format that is written as a folder. Raises CheckpointError if the format does not support the model.
    """
    chosen, stored = _choose(describe(source), to, lossy=True)
    write_folder(Path(target).expanduser(), lambda part: chosen.write(stored, part), overwrite=False)


def save_checked(
    checkpoint: Checkpoint,
    target: str | os.PathLike[str],
    *,
    to: str | None = None,
    overwrite: bool = False,
    lossy: bool = False,
) -> Saved:
    """Saves a checkpoint like `save`, but returns descriptions of what was left out instead of warning."""
    if any(parameter.is_meta for parameter in checkpoint.model.parameters()):
        raise CheckpointError("the model is on the meta device and has no weights; load the checkpoint with load")
    classes = checkpoint.model.config.num_classes
    if len(checkpoint.labels) != classes:
        raise CheckpointError(
            f"the model has {classes} classes, but there are {len(checkpoint.labels)} labels; set one label per class"
        )
    path = Path(target).expanduser()
    chosen, stored = _choose(checkpoint, to, lossy=lossy)
    if chosen.suffix and path.suffix != chosen.suffix:
        raise CheckpointError(
            f"the format {chosen.name} is a single file, which must end in {chosen.suffix}, not {path.name}"
        )
    verify.check_model(checkpoint)
    dropped: list[str] = []

    def write(part: Path) -> None:
        chosen.write(stored, part)
        dropped.extend(_read_back(checkpoint, stored, part, chosen, lossy=lossy))

    with _new_parents(path):
        if chosen.suffix:
            write_file(path, write, overwrite=overwrite)
        else:
            write_folder(path, write, overwrite=overwrite)
    return Saved(chosen.name, tuple(dropped))


def _choose(checkpoint: Checkpoint, to: str | None, *, lossy: bool) -> tuple[Format, Checkpoint]:
    """Returns the format to write and the checkpoint in the form that the format can store."""
    model, name = checkpoint.model, checkpoint.model.family
    candidates = [*formats_for("huggingface"), *formats_for("vitkit")] if to is None else formats_for(to)
    matching = [each for each in candidates if each.family in (None, name)]
    if to is not None:  # the format from which the checkpoint was loaded is first
        matching.sort(key=lambda each: each.name != checkpoint.origin.format)
    if not matching:
        raise CheckpointError(f"{to} does not support the model family {name}; use to='vitkit'")
    reasons: list[str] = []
    for each in matching:
        config = model.config
        reason = each.unsupported_reason(config)
        if lossy and isinstance(reason, ImpliedMismatch):
            with suppress(ValueError):  # the config rejects the implied values
                config = replace(config, **reason.implied)
                reason = each.unsupported_reason(config)
        if each.suffix and (task := meaning.unsupported(config, each.name)) is not None:
            reason = reason or (None if lossy else task)
        if reason is None:
            # If the task is left out, the head is stored unchanged.
            same = each.family is None or config.task != model.config.task
            stored = checkpoint if same else meaning.in_target_units(checkpoint)
            if config != model.config:
                twin = copy.copy(stored.model)
                twin.config = config
                stored = replace(stored, model=twin)
            return each, stored
        reasons.append(str(reason))
    raise CheckpointError(reasons[0])


def _read_back(checkpoint: Checkpoint, stored: Checkpoint, part: Path, chosen: Format, *, lossy: bool) -> list[str]:
    """Reads back a written checkpoint and returns descriptions of what was lost.

    Raises CheckpointError if the tensors differ, or if something was lost and `lossy` is False.
    """
    if not part.is_file() and not part.is_dir():
        return []  # a pipe or device
    loaded, found = _load_written(checkpoint, part)
    task = checkpoint.model.config.task
    rescaled = bool(task.target_std) and chosen.family is not None and loaded.model.config.task == task
    verify.check_values(checkpoint if rescaled else stored, loaded, task if rescaled else None)
    found += verify.losses(checkpoint, loaded)
    if found and not lossy:
        formats = " or ".join(f"to='{each}'" for each in _lossless(checkpoint, chosen))
        raise CheckpointError(
            f"{chosen.name} cannot hold {' and '.join(found)}; use {formats}, or lossy=True (--lossy) to leave it out"
        )
    return found


def _load_written(checkpoint: Checkpoint, part: Path) -> tuple[Checkpoint, list[str]]:
    """Loads a written checkpoint, and passes the number of heads if the files do not determine it.

    Returns the checkpoint, and a description of each setting that `load` must be given.
    """
    heads = getattr(checkpoint.model.config, "num_heads", None)
    settings: list[dict[str, int]] = [{}, *([] if heads is None else [{"num_heads": heads}])]
    errors: list[str] = []
    for given in settings:
        try:
            found = [f"the config ({name} {value}, which `load` must be given)" for name, value in given.items()]
            return load(part, dtype=None, config=given), found
        except CheckpointError as error:
            errors.append(str(error).replace(str(part), "the file").replace(part.name, "the file"))
    raise CheckpointError(f"the checkpoint was not saved, because it cannot be read back after writing: {errors[0]}")


def _lossless(checkpoint: Checkpoint, chosen: Format) -> list[str]:
    """Returns the names of other formats that store every field of a checkpoint."""
    family, config = checkpoint.model.family, checkpoint.model.config
    folders = [
        target
        for target in ("huggingface", "timm")
        if target not in chosen.targets
        and any(each.family == family and each.unsupported_reason(config) is None for each in formats_for(target))
    ]
    return [*folders, "vitkit"]


@contextmanager
def _new_parents(path: Path) -> Iterator[None]:
    """Context manager that removes newly created parent folders of a target if writing it fails."""
    missing = [parent for parent in path.absolute().parents if not parent.exists()]
    try:
        yield
    except BaseException:
        for parent in missing:
            with suppress(OSError):
                parent.rmdir()
        raise


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    to: str,
    *,
    overwrite: bool = False,
    lossy: bool = False,
    **options: Any,
) -> Checkpoint:
    """Loads a checkpoint with `load(source, **options)`, saves it in the format `to` and returns the checkpoint.

    `overwrite` and `lossy` are passed to `save`.
    """
    checkpoint = load(source, **options)
    save(checkpoint, target, to=to, overwrite=overwrite, lossy=lossy)
    return checkpoint


def write_file(target: Path, write: Callable[[Path], None], *, overwrite: bool) -> None:
    """Calls `write(path)` to write a file. Raises CheckpointError if the file exists and `overwrite` is False."""
    if target.is_dir():
        raise CheckpointError(f"{target} is a folder, but this format is a single file; pass the path of a file")
    if target.exists() and not overwrite:
        raise CheckpointError(f"{target} exists; pass overwrite=True (--overwrite) to replace it")
    atomic.write_file(target, write, same_name=True)


def write_folder(target: Path, write: Callable[[Path], None], *, overwrite: bool) -> None:
    """Calls `write(folder)` to write a folder.
    Raises CheckpointError if the folder is not empty and `overwrite` is False.

    With `overwrite`, an existing folder is replaced only if it is a checkpoint: it has a config.json and no subfolders.
    """
    check_folder(target, overwrite=overwrite)
    atomic.write_folder(target, write)


def check_folder(target: Path, *, overwrite: bool) -> None:
    """Raises CheckpointError if `target` is a file, or a folder that must not be replaced."""
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{target} is a file, but this format is a folder; pass the path of a folder")
    inside = list(target.iterdir()) if target.is_dir() else []
    if inside and not overwrite:
        raise CheckpointError(f"{target} exists and is not empty; pass overwrite=True (--overwrite) to replace it")
    if inside and (not (target / "config.json").is_file() or any(path.is_dir() for path in inside)):
        raise CheckpointError(
            f"{target} cannot be replaced: it is not empty and is not a checkpoint folder; choose another folder"
        )
