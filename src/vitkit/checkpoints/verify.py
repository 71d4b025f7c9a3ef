"""Compares a model with its config before it is saved, and a written checkpoint with the original."""

from collections.abc import Iterator
from dataclasses import fields, replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vitkit import models
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError, listing
from vitkit.config import AnyConfig
from vitkit.data.processor import Processor
from vitkit.layers import eval_mode
from vitkit.models import Backbone
from vitkit.task import Task

# Attributes of modules that are used only in training. A checkpoint does not contain them.
TRAINING = frozenset({"training", "frozen", "initial", "momentum", "inplace", "config"})
# Types of attributes that are compared.
PLAIN = (bool, int, float, str, tuple)
SHOWN = 60


def check_model(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError if the config does not describe the model, or the processor cannot be stored."""
    model, config = checkpoint.model, checkpoint.model.config
    if type(checkpoint.processor) is not Processor:
        kind = type(checkpoint.processor).__name__
        raise CheckpointError(f"the processor is a {kind}, which cannot be stored; use a plain Processor")
    try:
        config.task.check(config.num_classes)
        made = models.build(config, device="meta")
    except (ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"the config of the model is invalid: {' '.join(str(error).split())}") from None
    if problem := _shape_problem(model, made) or _module_problem(model, made):
        raise CheckpointError(problem)


def _shape_problem(model: Backbone, made: Backbone) -> str | None:
    """Returns an error message for the first tensor that the config does not describe, or None if there is none."""
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            return (
                f"the parametrization of {name or 'the model'} cannot be stored; make it permanent with "
                "torch.nn.utils.parametrize.remove_parametrizations"
            )
    given, wanted = model.state_dict(), made.state_dict()
    heads = tuple(f"{head}." for head in model.head_modules)
    for name in [*wanted, *given]:
        shape, expected = (tuple(each[name].shape) if name in each else None for each in (given, wanted))
        if shape == expected:
            continue
        has = f"has the shape {shape}" if shape is not None else "is missing"
        wants = f"the shape {expected}" if expected is not None else "no such tensor"
        hint = (
            "replace the head with model.reset_head(classes), which changes both, and set as many labels"
            if name.startswith(heads)
            else "change the config together with the modules"
        )
        return f"the tensor {name} {has}, but the config of the model describes {wants}; {hint}"
    return None


def _module_problem(model: Backbone, made: Backbone) -> str | None:
    """Returns an error message for the first module that the config does not describe, or None if there is none.

    A module of a subclass is accepted. `check_values` finds out whether it computes the same outputs.
    """
    given = dict(model.named_modules())
    if added := [name for name in given if name not in dict(made.named_modules())]:
        return (
            f"the config of the model does not describe the module {added[0]} ({type(given[added[0]]).__name__}); "
            "a checkpoint stores the config and tensors only"
        )
    for name, expected in made.named_modules():
        module = given.get(name)
        if module is None or not isinstance(module, type(expected)):
            kind = "missing" if module is None else f"a {type(module).__name__}"
            return (
                f"the module {name} is {kind}, but the config of the model describes a {type(expected).__name__}; "
                "a checkpoint stores the config and tensors only"
            )
        for attribute, value in vars(expected).items():
            own = getattr(module, attribute, None)
            if attribute not in TRAINING and isinstance(value, PLAIN) and own != value:
                return (
                    f"{name or 'the model'}.{attribute} is {str(own)[:SHOWN]}, but the config of the model describes "
                    f"{str(value)[:SHOWN]}; a checkpoint stores the config, so change that, too"
                )
    return None


def irregular_part(model: nn.Module) -> str | None:
    """Returns a part of the model that is not stored and may change its outputs, or None.

    An example is "a forward hook on head".
    """
    for name, module in model.named_modules():
        where = name or "the model"
        if module._forward_hooks or module._forward_pre_hooks:
            return f"a forward hook on {where}"
        if not type(module).__module__.startswith(("vitkit.", "torch.nn.modules.")):
            return f"the class {type(module).__name__} of {where}"
        for attribute in vars(module):
            if callable(getattr(type(module), attribute, None)):
                return f"the replaced method {attribute} of {where}"
    return None


def check_values(checkpoint: Checkpoint, loaded: Checkpoint, rescaled: Task | None) -> None:
    """Raises CheckpointError unless both models have the same tensors and the same outputs.

    Outputs are compared only if `irregular_part` finds a part that is not stored. The heads of a `rescaled` task may
    differ by rounding, because they were stored in the units of the targets (see `meaning.in_target_units`).
    """
    given, read = checkpoint.model.state_dict(), loaded.model.state_dict()
    margins: dict[str, float] = {}
    if rescaled is not None:
        units = zip(rescaled.target_mean, rescaled.target_std, strict=True)
        margin = 1 + max(abs(mean / std) for mean, std in units)
        margins = dict.fromkeys(checkpoint.model.head_parameters(), margin)
    other = [name for name in given if name not in read or not _equal(given[name], read[name], margins.get(name))]
    buffers = dict(loaded.model.named_buffers())
    other += [
        name
        for name, buffer in checkpoint.model.named_buffers()
        if name not in given and not _equal(buffer, buffers[name].to(buffer.dtype))
    ]
    if other:
        raise CheckpointError(f"read back after writing, the tensors {listing(other)} have other values or dtypes")
    irregular = irregular_part(checkpoint.model)
    if irregular is not None and not _same_outputs(checkpoint.model, loaded.model):
        raise CheckpointError(
            f"a checkpoint cannot store {irregular}, without which the outputs of the model are different; remove it"
        )


def _equal(tensor: Tensor, other: Tensor, margin: float | None = None) -> bool:
    """Returns whether two tensors have the same dtype, shape and bits.

    With `margin`, values may differ by this multiple of the rounding error.
    """
    tensor, other = tensor.detach().cpu(), other.detach().cpu()
    if tensor.dtype != other.dtype or tensor.shape != other.shape:
        return False
    if margin is not None:
        rounding = 4 * torch.finfo(tensor.dtype).eps
        return torch.allclose(tensor, other, rtol=rounding, atol=rounding * margin, equal_nan=True)
    if tensor.is_floating_point():
        integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize]
        tensor, other = (each.contiguous().view(integers) for each in (tensor, other))
    return torch.equal(tensor, other)


@torch.no_grad()
def _same_outputs(model: Backbone, other: Backbone) -> bool:
    """Returns whether two models give the same outputs for an image of noise."""
    parameter = next(model.parameters())
    config = model.config
    noise = torch.randn(1, config.channels, *config.image_size, generator=torch.Generator().manual_seed(0))
    other = other.to(parameter.device)
    with eval_mode(model):
        outputs = model(noise.to(parameter.device, parameter.dtype))
    expected = other.eval()(noise.to(parameter.device, parameter.dtype))
    return outputs.shape == expected.shape and torch.allclose(outputs, expected, rtol=1e-3, atol=1e-4, equal_nan=True)


def losses(checkpoint: Checkpoint, loaded: Checkpoint) -> list[str]:
    """Returns descriptions of what a format does not store, with the original and the loaded value."""
    found = []
    if checkpoint.labels != loaded.labels:
        differing = [pair for pair in zip(checkpoint.labels, loaded.labels, strict=False) if pair[0] != pair[1]]
        names = ", ".join(ours for ours, _ in differing[:2])
        instead = f", read as {differing[0][1]}" if differing else ""
        found.append(f"the class names ({_shown(names)}{', ...' if len(differing) > 2 else ''}{instead})")
    found += _field_losses("the preprocessing", checkpoint.processor, loaded.processor)
    ours, theirs = checkpoint.model.config, loaded.model.config
    found += _field_losses("the task", ours.task, theirs.task)
    found += _field_losses("the config", replace(ours, task=theirs.task), theirs)
    return found


def _field_losses(what: str, ours: Processor | Task | AnyConfig, theirs: Processor | Task | AnyConfig) -> Iterator[str]:
    """Yields one text that lists all fields of a dataclass that differ, if there are any."""
    pairs = [(field.name, getattr(ours, field.name), getattr(theirs, field.name)) for field in fields(ours)]
    differing = [f"{name} {_shown(one)}, read as {_shown(other)}" for name, one, other in pairs if one != other]
    if differing:
        yield f"{what} ({'; '.join(differing)})"


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
