"""Contract checks of objectives. Each check takes a `Subject`: an objective, its config and a model family."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from vitkit import models, objectives
from vitkit.config import AnyConfig
from vitkit.data.loader import Batch
from vitkit.models import Backbone
from vitkit.objectives import Objective
from vitkit.plugins.contracts import ContractError, NotApplicableError, expect


@dataclass(frozen=True)
class Subject:
    """An objective name, its config (the default config if None), and the family of the model to train."""

    name: str
    config: AnyConfig = None
    family: str = "vit"

    def build(self) -> Objective:
        """Builds the objective for a small model of the family."""
        torch.manual_seed(0)
        backbone = models.build(models.family(self.family).TINY)
        return objectives.build(self.settings, backbone)

    @property
    def settings(self) -> AnyConfig:
        """The config of the objective."""
        return objectives.objective(self.name).Config() if self.config is None else self.config


def batch_for(model: Backbone, num: int = 4) -> Batch:
    """Returns a batch of random images. Their classes are 0, 1, 2, ... in order."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(num, model.config.channels, *model.config.image_size, generator=generator)
    classes = max(1, model.config.num_classes)
    targets = torch.eye(classes)[[index % classes for index in range(num)]]
    return Batch(images, targets, tuple(map(str, range(num))))


def config_and_build_are_valid(subject: Subject) -> None:
    """Checks the attributes of the module, and that `build` returns an `Objective` with a `backbone`."""
    built = subject.build()
    expect(
        isinstance(getattr(built, "backbone", None), Backbone),
        "the objective has no backbone; write self.backbone = backbone",
    )


def scalars(built: Objective, batch: Batch) -> dict[str, Tensor]:
    """Runs an objective and returns its scalars. Raises ContractError unless they are finite scalar tensors."""
    found = built(batch)
    example = '{"loss": loss}'
    if not isinstance(found, dict) or "loss" not in found:
        raise ContractError(f"forward(batch) returned {type(found).__name__}; expected a dict with the loss: {example}")
    for name, value in found.items():
        if not isinstance(value, Tensor) or value.ndim or not value.isfinite():
            shown = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) and value.ndim else repr(value)
            raise ContractError(f"the value '{name}' is {shown}; expected a finite scalar tensor, such as a .mean()")
    return found


def two_steps_change_the_loss(subject: Subject) -> None:
    """Checks that two SGD steps on the same batch change the loss."""
    built = subject.build().train()
    batch = batch_for(built.backbone)
    optimizer = torch.optim.SGD(built.parameters(), lr=0.05)
    losses = []
    for step in range(2):
        found = scalars(built, batch)
        if not found["loss"].requires_grad:
            raise ContractError("the loss has no gradient; compute it from the backbone without no_grad or detach")
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        built.after_step((step + 1) / 2)
        losses.append(found["loss"].item())
    expect(
        losses[0] != losses[1], f"the loss is {losses[0]:.6g} before and after a step; it must depend on the weights"
    )
    updated = [name for name, each in built.named_parameters() if each.grad is not None and each.grad.abs().sum() > 0]
    expect(updated, "the gradient of every parameter is zero")


def the_state_dict_restores_the_objective(subject: Subject) -> None:
    """Checks that loading the state dict restores the loss, so that a run can resume."""
    one, other = subject.build(), subject.build()
    with torch.no_grad():
        for tensor in one.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.01)
    other.load_state_dict(one.state_dict())
    losses = []
    for module in (one, other):
        torch.manual_seed(1)  # seeds masks and views, as the training loop does before every step
        losses.append(scalars(module.eval(), batch_for(one.backbone))["loss"])
    expect(
        torch.equal(*losses),
        f"the loss is {losses[0].item():.6g}, and {losses[1].item():.6g} after loading the state "
        "dict; store everything that changes in parameters or buffers, and use torch's random numbers",
    )


def labels_are_read_only_if_needed(subject: Subject) -> None:
    """Checks that an objective with `NEEDS_LABELS = False` has the same loss without labels."""
    if objectives.needs_labels(subject.settings):
        raise NotApplicableError("it needs labels")
    built = subject.build().eval()
    batch = batch_for(built.backbone)
    losses = []
    for targets in (batch.targets, torch.zeros(batch.targets.shape[0], 0)):
        torch.manual_seed(1)
        losses.append(scalars(built, dataclasses.replace(batch, targets=targets))["loss"])
    expect(torch.equal(*losses), "the loss depends on batch.targets; remove NEEDS_LABELS = False (needs_labels=False)")


def the_config_survives_json(subject: Subject) -> None:
    """Checks that the config is unchanged after saving as JSON, and that an unknown key is an error."""
    config = subject.settings
    data = objectives.to_dict(config)
    expect(
        data["objective"] == subject.name,
        f"the config belongs to the objective '{data['objective']}'; expected '{subject.name}'",
    )
    restored = objectives.from_dict(data)
    expect(
        restored == config,
        f"the config is {config!r}, but after saving as JSON {restored!r}; use numbers, strings, "
        "tuples and frozen dataclasses",
    )
    try:
        objectives.from_dict({**data, "nonsense": 1})
    except ValueError as error:
        expect("unknown key 'objective.nonsense'" in str(error), f"an unknown key raises '{error}'")
    else:
        expect(False, "an unknown key of the config is ignored; expected a ValueError")


CHECKS = (
    config_and_build_are_valid,
    two_steps_change_the_loss,
    the_state_dict_restores_the_objective,
    labels_are_read_only_if_needed,
    the_config_survives_json,
)
