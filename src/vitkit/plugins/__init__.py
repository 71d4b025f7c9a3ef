"""Plug-ins: models, objectives, data sources and other components from your own files and packages.

`load("./mine.py")` loads a file. A file with the same attributes as vitkit's own files, such as `Config` and `build`
for an objective, is registered under its file name. Functions and classes are registered by decorators:

    from vitkit.plugins import register_objective

    @register_objective
    def focal(backbone, batch, *, gamma: float = 2.0):
        ...

An installed package declares its modules as entry points in the group `vitkit.plugins`. `check` runs the contract
checks that the built-in components pass. docs/plugins.md has a complete example of each kind.
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
        target: A module with the attributes of vitkit's own files, or an object that the decorator of the kind accepts.
        name: Name of the component. Defaults to the name of the target.

    Raises PluginError if the kind is unknown, or if vitkit or another plug-in has a component of the same name.
    """
    discovery.register(kind, target, name)
    return target


def register_model(
    *, config: type, tiny: object, presets: Mapping[str, object] | None = None, name: str | None = None
) -> Decorator[Target]:
    """Decorator that registers a subclass of `Backbone`, or a function that builds one, as a model family.

    Args:
        config: The frozen dataclass with the settings of the model.
        tiny: Config of a small model that runs in milliseconds. The contract checks use it.
        presets: Configs by preset name, which `vitkit models` lists. Defaults to one preset, the default config, which
            is named after the family.
        name: Name of the family. Defaults to the class name in snake case, such as `patch_mean` for PatchMean.
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
    """Decorator that registers a loss function or an `Objective` subclass as a training objective.

    A function `loss(backbone, batch, *, option=default)` returns a scalar tensor, or a dict of scalars with the key
    `loss`. Its options are settings of the run config (`--set objective.option=...`). The constructor of an `Objective`
    subclass takes `(config: Config, backbone)`.

    Args:
        target: The function or class, if the decorator is used without parentheses.
        name: Name of the objective. Defaults to the name of the target.
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

    The name of a source sets the parameters of the function or class: `shapes(*, number: int = 100)` is opened as
    `shapes:number=5`. If the only parameter is `location`, it receives the text after the colon. A function returns a
    `Source`, or a dict that maps split names to Sources.

    Args:
        target: The function or class, if the decorator is used without parentheses.
        name: Name of the data source. Defaults to the name of the target.
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
    """Decorator that registers a function `metric(subject)` as an evaluator.

    `subject` is a `vitkit.evaluation.ModelOutputs`. If the function returns a number, the metric is named `NAME.value`.
    If it returns a dict of numbers, each metric is named `NAME.key`.

    Args:
        target: The function, if the decorator is used without parentheses.
        name: Name of the evaluator. Defaults to the name of the function.
        reads: Part of `subject` that the function reads: predictions, representations, images or model.
        problem_types: Supported problem types of `vitkit.task`. Defaults to single-label and multi-label
            classification.
        fractions: Whether the metrics are fractions between 0 and 1, which are displayed in percent.
    """
    attributes: dict[str, object] = {"READS": reads, "FRACTIONS": fractions}
    attributes |= {} if problem_types is None else {"PROBLEM_TYPES": tuple(problem_types)}
    return _decorated("evaluator", target, name, attributes)


@overload
def register_explanation(target: Target, /) -> Target: ...
@overload
def register_explanation(*, name: str | None = None) -> Decorator[Target]: ...
def register_explanation(target: Target | None = None, /, *, name: str | None = None) -> Target | Decorator[Target]:
    """Decorator that registers a function as an explanation method.

    The function `explain(subject, *, option=default)` returns a `vitkit.explanation.Explanation`.

    Args:
        target: The function, if the decorator is used without parentheses.
        name: Name of the method. Defaults to the name of the function.
    """
    return _decorated("explanation", target, name, {})


@overload
def register_recipe(target: Target, /) -> Target: ...
@overload
def register_recipe(*, name: str | None = None) -> Decorator[Target]: ...
def register_recipe(target: Target | None = None, /, *, name: str | None = None) -> Target | Decorator[Target]:
    """Decorator that registers a function as a recipe.

    The function has no required parameters and returns a `vitkit.training.Run`.

    Args:
        target: The function, if the decorator is used without parentheses.
        name: Name of the recipe. Defaults to the module name and the function name, such as `mine.small`.
    """

    def decorate(function: Target) -> Target:
        stem = discovery.origin_of(function).stem
        full = name or ".".join(filter(None, [stem, getattr(function, "__name__", "")]))
        discovery.register("recipe", function, full)
        return function

    return decorate if target is None else decorate(target)


def register_format(target: Target, name: str | None = None) -> Target:
    """Registers a `vitkit.checkpoints.formats.Format` as a checkpoint format, and returns it.

    Args:
        target: The format.
        name: Name of the component. Defaults to the name of the format.
    """
    return register("format", target, name)


def check(target: str, *, kind: str | None = None) -> "Report":
    """Runs the contract checks, which vitkit's own components pass, on the components of a plug-in.

    Args:
        target: A file (`./mine.py`), one component of it (`./mine.py:loss`), or an installed package or module.
        kind: Kind of the component `./mine.py:loss`. Defaults to the kind for which it is registered, or else to the
            kind inferred from its type or annotations. In a file or package, only components of this kind are checked.

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
