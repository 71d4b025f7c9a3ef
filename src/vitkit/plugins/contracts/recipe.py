"""Contract checks of recipes. Each check takes the name of a recipe."""

import torch

from vitkit import models, objectives, recipes
from vitkit.plugins.contracts import expect
from vitkit.training import checks
from vitkit.training import run as runs


def it_has_a_summary_and_a_command(name: str) -> None:
    """Checks the description that `vitkit recipes` shows."""
    entry = recipes.entry(name)
    expect(f"vitkit train {name} --data " in entry.description, "the description does not contain the command")
    one = len(entry.summary.splitlines()) == 1 and not entry.summary.endswith(".")
    expect(one, f"the summary is {entry.summary!r}; expected one line without a full stop at the end")


def the_run_survives_json(name: str) -> None:
    """Checks that the config of the run is unchanged after saving as JSON."""
    run = recipes.recipe(name)
    expect(run.name == name, f"the name of the run is '{run.name}'; expected '{name}', the name of the recipe")
    restored = runs.from_json(runs.to_json(run))
    differ = runs.differences(run, restored)
    expect(restored == run, f"the run changes in {', '.join(differ) or 'its config'} when it is saved as JSON")


def the_settings_fit_together(name: str) -> None:
    """Checks image sizes, channels and other settings that do not depend on the data."""
    run = recipes.recipe(name)
    expect(
        tuple(run.model.image_size) == tuple(run.processor.size),
        f"the model has image_size {run.model.image_size}, "
        f"but the processor has size {run.processor.size}; they must be equal",
    )
    expect(
        run.model.channels == run.processor.channels,
        f"the model has {run.model.channels} channels, but the processor "
        f"has {run.processor.channels}; they must be equal",
    )
    checks.check_patch_size(run.model)
    checks.check_objective(run)
    checks.check_settings(run, torch.device("cpu"))


def the_model_and_the_objective_can_be_built(name: str) -> None:
    """Checks that the model can be built on the meta device, and that the objective is known."""
    run = recipes.recipe(name)
    model = models.build(run.model, device="meta")
    expect(sum(each.numel() for each in model.parameters()) > 0, "the model has no parameters")
    expect(objectives.name_of(run.objective) in objectives.objectives(), "the objective is not in the list")


CHECKS = (
    it_has_a_summary_and_a_command,
    the_run_survives_json,
    the_settings_fit_together,
    the_model_and_the_objective_can_be_built,
)
