"""Training recipes: configs of training runs by name, with the command to start them and expected accuracies.

Each file of this folder lists its recipes in `RECIPES`. To add a recipe, add an entry to a list or add a file.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

from vitkit.config import nearest
from vitkit.discovery import Component, PluginError, component
from vitkit.references import module_of, parse, resolve
from vitkit.registry import Registry, namespace, warn_left_out
from vitkit.training.run import Run


@dataclass(frozen=True)
class Recipe:
    """A training recipe, such as `digits.tiny`: a training run, its description and the expected accuracy.

    Args:
        name: `file.recipe`, the name on the command line.
        summary: Model, dataset and length of the training, without a final full stop.
        base: Builds the run from the name and the overrides.
        overrides: Keyword arguments of `base`: what distinguishes this recipe from others with the same base.
        expected: Accuracy to expect.
        source: Where the settings and the expected accuracy come from.
        data: Argument of `--data` in the example command.
        options: Further arguments of the example command.
        notes: Differences from the source, measured times and other remarks.
    """

    name: str
    summary: str
    base: Callable[..., Run]
    overrides: Mapping[str, object] = field(default_factory=dict)
    expected: str = ""
    source: str = ""
    data: str = "SOURCE"
    options: str = ""
    notes: str = "Training time was not measured."

    def run(self) -> Run:
        """Returns the config of the training run."""
        return self.base(self.name, **self.overrides)

    @property
    def command(self) -> str:
        """An example command that starts the training run."""
        return f"vitkit train {self.name} --data {self.data} {self.options}".rstrip()

    @property
    def description(self) -> str:
        """Text that describes the recipe: summary, expected accuracy, command and notes."""
        expected = f": {self.expected}" if self.expected else ""
        source = f" ({self.source})" if self.source else ""
        paragraphs = (f"{self.summary}{expected}{source}.", f"`{self.command}`", self.notes)
        return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def _validate(module: ModuleType) -> None:
    """Raises PluginError if `RECIPES` is not a list of recipes."""
    wrong = (
        [each for each in module.RECIPES if not isinstance(each, Recipe)]
        if _is_list(module.RECIPES)
        else [module.RECIPES]
    )
    if wrong:
        raise PluginError(f"RECIPES contains {wrong[0]!r}; expected a list or tuple of vitkit.recipes.Recipe")


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _adapt(component: Component) -> ModuleType:
    """Wraps a function without required parameters, a `Run` or a `Recipe` as a recipe module."""
    target, where = component.target, f"'{component.name}' of {component.origin}"
    if isinstance(target, Recipe):
        return namespace(component, RECIPES=(replace(target, name=component.name),))
    if not callable(target) and not isinstance(target, Run):
        raise PluginError(f"{where} is {target!r}; expected a function without parameters that returns a Run")

    def base(name: str) -> Run:
        run = target() if callable(target) else target
        if not isinstance(run, Run):
            raise PluginError(f"{where} returned {type(run).__name__}; expected a vitkit.training.Run")
        return replace(run, name=name)

    if callable(target):
        try:
            inspect.signature(target).bind()
        except TypeError as error:
            raise PluginError(
                f"{where} cannot be called without arguments: {error}; give each a default value"
            ) from None
    text = (inspect.getdoc(target) if callable(target) else None) or f"Run of {component.origin}"
    summary = text.partition("\n")[0].removesuffix(".")
    return namespace(
        component, RECIPES=(Recipe(component.name, summary, base, notes=f"Defined in {component.origin}."),)
    )


_MODULES = Registry(
    __name__, "recipe file", {"RECIPES": "a tuple of vitkit.recipes.Recipe"},
    plugin_kind="recipe", adapt=_adapt, validate=_validate,
)  # fmt: skip


def recipes() -> dict[str, Recipe]:
    """Returns all recipes by name. Recipes of invalid plug-ins and recipes with a taken name are left out."""
    found: dict[str, Recipe] = {}
    for name, module in sorted(_MODULES, key=lambda pair: component("recipe", pair[0]) is not None):
        for entry in module.RECIPES:
            if entry.name in found:
                warn_left_out(f"the recipe '{entry.name}' of '{name}', because another recipe has the name")
            else:
                found[entry.name] = entry
    return found


def entry(name: str) -> Recipe:
    """Returns a recipe, given by its name or as an object of a file (`./mine.py:small`), which is loaded.

    Raises ValueError if the name is unknown.
    """
    reference = parse(name)
    if reference is not None:
        module = module_of(reference.file)
        listed = [each.name for each in getattr(module, "RECIPES", ()) if isinstance(each, Recipe)]
        given = {reference.name, f"{Path(reference.file).stem}.{reference.name}"} if reference.name else {*listed}
        chosen = [each for each in listed if each in given]
        if len(chosen) > 1:
            raise PluginError(
                f"the file {reference.file} has the recipes {', '.join(listed)}; write {reference.file}:NAME"
            )
        if reference.name and not chosen and listed and not hasattr(module, reference.name):
            short = [each.rpartition(".")[2] for each in listed]
            raise PluginError(
                f"the file {reference.file} has no recipe '{reference.name}'{nearest(reference.name, short)}"
            )
        name = chosen[0] if chosen else resolve("recipe", name)
    known = recipes()
    if name not in known:
        if component("recipe", name) is not None:
            _MODULES.get(name)  # raises PluginError if the recipe is invalid
        raise ValueError(f"unknown recipe '{name}'{nearest(name, known)}")
    return known[name]


def recipe(name: str) -> Run:
    """Returns the run config of a recipe, given by its name or as an object of a file (`./mine.py:small`).

    Raises ValueError if the name is unknown.
    """
    return entry(name).run()
