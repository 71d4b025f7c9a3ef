"""Reads and writes the task of a checkpoint, which defines the meaning of the head's outputs.

transformers' config.json stores the problem type under `problem_type` and timm's has no such field; the rest of a task
is under `vitkit` in both. In files of other libraries the head of a regression predicts values in the units of the
targets, so that these libraries predict the same numbers; in memory it predicts standardized values, which lower
precisions represent well.
"""

import copy
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitkit import atomic
from vitkit import config as configs
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError
from vitkit.checkpoints.json_files import Json, read_json, write_json
from vitkit.checkpoints.locate import WEIGHTS
from vitkit.config import AnyConfig, JsonDict
from vitkit.models import Backbone
from vitkit.task import Task

PREFIX = "task."


def split_overrides(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits overrides into those of the task (`task.problem_type`), without the prefix, and those of the config."""
    task = {name.removeprefix(PREFIX): value for name, value in overrides.items() if name.startswith(PREFIX)}
    return task, {name: value for name, value in overrides.items() if not name.startswith(PREFIX)}


def read(config: AnyConfig, file_config: Json | None, overrides: Mapping[str, Any], notes: list[str]) -> Task:
    """Returns the task in config.json with the overrides applied. `config` is the model config from the same file.

    Statistics of targets that do not fit the number of outputs belong to an earlier head. They are ignored with a
    note. Raises CheckpointError for an invalid task.
    """
    data = file_config or {}
    extra = data.get("vitkit")
    stored = dict(extra["task"]) if isinstance(extra, Mapping) and isinstance(extra.get("task"), Mapping) else {}
    if data.get("problem_type") is not None:
        stored["problem_type"] = data["problem_type"]
    elif "model_type" in data:
        stored.pop("problem_type", None)  # transformers' own key decides, also if a user has removed it
    stored = configs.to_dict(config.task) | stored
    if overrides.get("problem_type", stored["problem_type"]) != stored["problem_type"]:
        stored = {}  # the other fields belong to the problem type of the file
    elif stored["problem_type"] != "regression" or _length(stored) not in (0, config.num_classes):
        removed = [stored.pop(name, None) for name in ("target_mean", "target_std")]
        if any(removed):
            notes.append("ignored: target_mean and target_std in config.json, because they belong to another head")
    try:
        task = configs.from_dict(Task, stored | _parsed(overrides), where="task")
        task.check(config.num_classes)
    except ValueError as error:
        raise CheckpointError(f"config.json: {error}") from None
    return task


def to_json(task: Task, *, problem_type: bool = True) -> JsonDict:
    """Returns the task fields that differ from their defaults, to be stored under `vitkit` in a config.json."""
    plain, default = configs.to_dict(task), configs.to_dict(Task())
    if not problem_type:
        default["problem_type"] = task.problem_type
    changed = {name: value for name, value in plain.items() if value != default[name]}
    return {"task": changed} if changed else {}


def save_threshold(source: str | os.PathLike[str], threshold: tuple[float, ...]) -> Path | None:
    """Replaces the decision thresholds in the config.json of a local folder, and returns the path of this file.

    The folder may be in any format that stores a task, or an export. Returns None if the source is not such a folder.
    The file is written atomically.
    """
    path = Path(source).expanduser()
    path = (path.parent if path.name in WEIGHTS and path.is_file() else path) / "config.json"
    if not path.is_file():
        return None
    data = read_json(path)
    # The config of vitkit's own layout has the task itself; the files of other libraries have it under `vitkit`.
    key = "model" if isinstance(data.get("model"), dict) else "vitkit"
    outer = data.get(key, {})
    task = outer.get("task", {}) if isinstance(outer, dict) else None
    if not isinstance(task, dict):
        return None
    data[key] = {**outer, "task": {**task, "threshold": list(threshold)}}
    atomic.write_file(path, lambda part: write_json(data, part))
    return path


def unsupported(config: AnyConfig, format_name: str) -> str | None:
    """Returns why a format without config.json cannot store the task of this config, or None if it can."""
    if config.task == Task() or not config.num_classes:
        return None
    names = [field.name for field in fields(Task) if getattr(config.task, field.name) != field.default]
    shown = ", ".join(f"{name}={getattr(config.task, name)!r}" for name in names)
    return (
        f"{format_name} cannot store the task of the model ({shown[:160]}); use to='huggingface', 'timm' or "
        "'vitkit', or pass lossy=True (--lossy), or load the model with "
        "task.problem_type='single_label_classification', to discard the task"
    )


def in_target_units(checkpoint: Checkpoint) -> Checkpoint:
    """Returns a checkpoint whose regression head predicts targets in original units. Other weights are not copied."""
    task = checkpoint.model.config.task
    if not task.target_std:
        return checkpoint
    heads = {id(parameter) for parameter in checkpoint.model.head_parameters().values()}
    shared = {id(each): each for each in checkpoint.model.parameters() if id(each) not in heads}
    model = copy.deepcopy(checkpoint.model, shared)
    rescale_head(model, task, replace(task, target_mean=(), target_std=()))
    model.config = checkpoint.model.config
    return replace(checkpoint, model=model)


@torch.no_grad()
def rescale_head(model: Backbone, old: Task, new: Task) -> None:
    """Rescales linear regression heads from the target mean and std of task `old` to those of task `new`.

    Computed in float64. Raises ValueError for a head that is not linear with a bias.
    """
    ones = (1.0,) * model.config.num_classes
    zeros = (0.0,) * model.config.num_classes
    old_mean, old_std, new_mean, new_std = (
        torch.tensor(values or default, dtype=torch.float64)
        for values, default in (
            (old.target_mean, zeros), (old.target_std, ones), (new.target_mean, zeros), (new.target_std, ones)
        )
    )  # fmt: skip
    scale, shift = old_std / new_std, (old_mean - new_mean) / new_std
    for name in model.head_modules:
        head = model.get_submodule(name)
        if not isinstance(head, nn.Linear) or head.bias is None:
            raise ValueError(f"the head '{name}' is not a linear layer with a bias, so its targets cannot be rescaled")
        device = head.weight.device
        head.weight.copy_(head.weight.double() * scale.to(device)[:, None])
        head.bias.copy_(head.bias.double() * scale.to(device) + shift.to(device))
    model.config = replace(model.config, task=new)


def is_untrained(model: Backbone) -> bool:
    """Returns whether the head gives every image the same scores, as a zero-initialized head does."""
    heads = [model.get_submodule(name) for name in model.head_modules]
    linear = [head for head in heads if isinstance(head, nn.Linear)]
    if not linear or len(linear) < len(heads) or linear[0].weight.is_meta:
        return False
    function = model.config.task.function(model.config.num_classes)
    return all(_is_constant(head, shift=function == "softmax") for head in linear)


def _is_constant(head: nn.Linear, *, shift: bool) -> bool:
    """Returns whether the weight of a layer is zero or, if `shift` is True, has equal rows."""
    weight = head.weight.detach()
    return bool((weight == (weight[:1] if shift else 0.0)).all())


def _length(stored: Mapping[str, Any]) -> int:
    mean = stored.get("target_mean", ())
    return len(mean) if isinstance(mean, list | tuple) else 0


def _parsed(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {name: configs.parse(value) if isinstance(value, str) else value for name, value in overrides.items()}
