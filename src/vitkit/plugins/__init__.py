"""Plug-ins: models, objectives, data sources and other components from your own files and from installed packages.

`load("./mine.py")` loads a file. A component is registered by the name of the file if the file has the attributes of
vitkit's own files (`Config` and `build` for an objective), or by one of the decorators:

    from vitkit.plugins import register_objective

    @register_objective
    def focal(backbone, batch, *, gamma: float = 2.0):
        ...

An installed package has the entry points `vitkit.plugins`. `check` runs the contract checks of the built-in components.
docs/plugins.md has a complete example of each kind.
"""

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar, overload

from vitkit import discovery
from vitkit.discovery import Component, PluginError, PluginWarning, components, failed, load, unregister

if TYPE_CHECKING:
    from vitkit.plugins.contracts import Report

Target = TypeVar("Target")
Decorator = Callable[[Target], Target]


def register(kind: str, target: Target, name: str | None = None) -> Target:
    """Registers a component and returns it.

    Args:
        kind: model, objective, source, evaluator, explanation, format or recipe.
        target: A module with the attributes of vitkit's own files, or what the decorator of the kind accepts.
        name: Name of the component. If None: the name of the target.

    Raises PluginError for an unknown kind, and for a name that vitkit or another plug-in has.
    """
    discovery.register(kind, target, name)
    return target


def register_model(
    *, config: type, tiny: object, presets: Mapping[str, object] | None = None, name: str | None = None
) -> Decorator[Target]:
    """Decorator that registers a subclass of `Backbone`, or a function that builds one, as a model family.

    Args:
        config: The frozen dataclass that the model is built from.
        tiny: A config of a model that runs in milliseconds, for checks.
        presets: Configs by name, which `vitkit models` lists. If None: the default config, by the name of the family.
        name: Name of the family. If None: the name of the class, such as `patch_mean` for PatchMean.
    """

    def decorate(model: Target) -> Target:
        family = name or discovery.snake_case(getattr(model, "__name__", ""))
        module = ModuleType(f"{getattr(model, '__module__', '')}.{family}")
        module.__doc__ = getattr(model, "__doc__", None)
        default = {family.replace("_", "-"): config()} if presets is None else presets
        vars(module).update(Model=model, Config=config, PRESETS=default, TINY=tiny)
        discovery.register("model", module, family, origin=discovery.origin_of(model))
        return model

    return decorate


@overload
def register_objective(target: Target, /) -> Target: ...
@overload
def register_objective(*, name: str | None = None, needs_labels: bool = True) -> Decorator[Target]: ...
def register_objective(
    target: Target | None = None, /, *, name: str | None = None, needs_labels: bool = True
) -> Target | Decorator[Target]:
    """Decorator that registers a loss function `loss(backbone, batch, *, option=default)` or an `Objective` subclass.

    A function returns a scalar tensor, or a dict of scalars with `loss`. Its options are settings of the run
    (`--set objective.option=...`). A subclass of `Objective` takes (config: Config, backbone).

    Args:
        target: The function or class, if the decorator is used without parentheses.
        name: Name of the objective. If None: the name of the target.
        needs_labels: Whether the objective reads `batch.targets`.
    """
    attributes = {} if needs_labels else {"NEEDS_LABELS": False}
    return _decorated("objective", target, name, attributes)


@overload
def register_source(target: Target, /) -> Target: ...
@overload
def register_source(*, name: str | None = None) -> Decorator[Target]: ...
def register_source(target: Target | None = None, /, *, name: str | None = None) -> Target | Decorator[Target]:
    """Decorator that registers a data source: a `Source` subclass, or a function that returns Sources.

    Its parameters are the options of the name: `shapes(*, number: int = 100)` is opened as `shapes:number=5`. A single
    parameter `location` gets the text after the colon. A function returns a `Source`, or a dict of them by split.

    Args:
        target: The function or class, if the decorator is used without parentheses.
        name: Name of the data source. If None: the name of the target.
    """
    return _decorated("source", target, name, {})


@overload
def register_evaluator(target: Target, /) -> Target: ...
@overload
def register_evaluator(
    *,
    name: str | None = None,
    reads: str = "predictions",
    problem_types: Sequence[str] | None = None,
    fractions: bool = True,
) -> Decorator[Target]: ...
def register_evaluator(
    target: Target | None = None,
    /,
    *,
    name: str | None = None,
    reads: str = "predictions",
    problem_types: Sequence[str] | None = None,
    fractions: bool = True,
) -> Target | Decorator[Target]:
    """Decorator that registers a function `metric(subject)`, which returns a number or a dict of numbers by name.

    `subject` is a `vitkit.evaluation.ModelOutputs`. The metrics are named `NAME.value`, or `NAME.key` for a dict.

    Args:
        target: The function, if the decorator is used without parentheses.
        name: Name of the evaluator. If None: the name of the function.
        reads: Part of `subject` that is read: predictions, representations, images or model.
        problem_types: Supported problem types of `vitkit.task`. If None: both kinds of classification.
        fractions: Whether the numbers are fractions between 0 and 1, which are shown in percent.
    """
    attributes: dict[str, object] = {"READS": reads, "FRACTIONS": fractions}
    attributes |= {} if problem_types is None else {"PROBLEM_TYPES": tuple(problem_types)}
    return _decorated("evaluator", target, name, attributes)


@overload
def register_explanation(target: Target, /) -> Target: ...
@overload
def register_explanation(*, name: str | None = None) -> Decorator[Target]: ...
def register_explanation(target: Target | None = None, /, *, name: str | None = None) -> Target | Decorator[Target]:
    """Decorator that registers a function `explain(subject, *, option=default)`, which returns an `Explanation`.

    Args:
        target: The function, if the decorator is used without parentheses.
        name: Name of the method. If None: the name of the function.
    """
    return _decorated("explanation", target, name, {})


@overload
def register_recipe(target: Target, /) -> Target: ...
@overload
def register_recipe(*, name: str | None = None) -> Decorator[Target]: ...
def register_recipe(target: Target | None = None, /, *, name: str | None = None) -> Target | Decorator[Target]:
    """Decorator that registers a function without required parameters, which returns a `Run`, as a recipe.

    Args:
        target: The function, if the decorator is used without parentheses.
        name: Name of the recipe. If None: that of the module and of the function, such as `mine.small`.
    """

    def decorate(function: Target) -> Target:
        stem = discovery.origin_of(function).stem
        full = name or ".".join(filter(None, [stem, getattr(function, "__name__", "")]))
        discovery.register("recipe", function, full)
        return function

    return decorate if target is None else decorate(target)


def register_format(target: Target, name: str | None = None) -> Target:
    """Registers a checkpoint format, a `vitkit.checkpoints.formats.Format`, and returns it.

    Args:
        target: The format.
        name: Name of the component. If None: the name of the format.
    """
    return register("format", target, name)


def check(target: str, *, kind: str | None = None) -> "Report":
    """Runs the contract checks of vitkit's own components on those of a plug-in.

    Args:
        target: A file (`./mine.py`), one component of it (`./mine.py:loss`), or an installed package or module.
        kind: Kind of the component in `./mine.py:loss`. If None: the kind that it is registered as, or that its type or
            its annotations show.

    Raises PluginError if the plug-in cannot be loaded or has no components.
    """
    from vitkit.plugins.checking import check_plugin

    return check_plugin(target, kind)


def _decorated(
    kind: str, target: Target | None, name: str | None, attributes: Mapping[str, object]
) -> Target | Decorator[Target]:
    def decorate(function: Target) -> Target:
        for attribute, value in attributes.items():
            setattr(function, attribute, value)
        return register(kind, function, name)

    return decorate if target is None else decorate(target)


__all__ = [
    "Component",
    "PluginError",
    "PluginWarning",
    "check",
    "components",
    "failed",
    "load",
    "register",
    "register_evaluator",
    "register_explanation",
    "register_format",
    "register_model",
    "register_objective",
    "register_recipe",
    "register_source",
    "unregister",
]
