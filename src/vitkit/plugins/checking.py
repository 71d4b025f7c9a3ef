"""Runs the contract checks on the components of a plug-in."""

import inspect
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import get_type_hints

from vitkit import discovery
from vitkit.config import nearest
from vitkit.data import Source
from vitkit.data.loader import Batch
from vitkit.discovery import ATTRIBUTES, Component, PluginError
from vitkit.evaluation import ModelOutputs
from vitkit.explanation import ExplainInputs, Explanation
from vitkit.models import Backbone
from vitkit.objectives import Objective
from vitkit.plugins.contracts import Report, Result, run_checks
from vitkit.recipes import Recipe
from vitkit.references import Reference, module_of, parse, public, resolve
from vitkit.training import Run

# Attributes that a module of each kind defines, for the error message about a plug-in without components.
EXAMPLES = {
    "model": "Config, Model, PRESETS and TINY",
    "objective": "Config and build(config, backbone)",
    "source": "open_source(location)",
    "evaluator": "evaluate(subject)",
    "explanation": "explain(subject)",
    "format": "FORMAT",
    "recipe": "RECIPES",
}


def check_plugin(target: str, kind: str | None = None) -> Report:
    """Checks a file, a component `FILE.py:NAME`, or an installed package. See `vitkit.plugins.check`."""
    if kind is not None and kind not in ATTRIBUTES:
        raise PluginError(f"unknown kind of component '{kind}'{nearest(kind, ATTRIBUTES)}")
    reference = parse(target)
    if reference is not None and reference.name:
        found = [_chosen(target, reference, kind)]
    else:
        plugin = target if reference is None else reference.file
        found = [each for each in discovery.load(plugin) if kind in (None, each.kind)]
        found = found or [*_undecorated(plugin, kind)]
    if not found:
        raise PluginError(_nothing(target, kind))
    results = [result for each in found for result in check_component(each, reference and reference.argument)]
    return Report(target, tuple(results))


def check_component(component: Component, argument: str | None = None) -> Iterator[Result]:
    """Runs the contract checks on a component and yields their results.

    `argument` is the argument of a data source or an evaluator, such as `number=5`.
    """
    contract = import_module(f"vitkit.plugins.contracts.{component.kind}")
    name = component.name
    spec = name if argument is None else f"{name}:{argument}"
    if component.kind == "recipe":
        for each in _recipes_of(component):
            yield from run_checks("recipe", each, contract.CHECKS, each)
    elif component.kind == "format":
        layout = getattr(component.target, "FORMAT", component.target)
        yield from run_checks("format", name, contract.CHECKS, contract.Subject(getattr(layout, "name", name)))
    elif component.kind in ("objective", "evaluator"):
        yield from run_checks(component.kind, spec, contract.CHECKS, contract.Subject(spec))
    else:
        yield from run_checks(component.kind, spec, contract.CHECKS, spec)


def _recipes_of(component: Component) -> list[str]:
    listed = getattr(component.target, "RECIPES", None) if isinstance(component.target, ModuleType) else None
    names = [each.name for each in listed if isinstance(each, Recipe)] if isinstance(listed, list | tuple) else []
    return names or [component.name]


def _chosen(target: str, reference: Reference, kind: str | None) -> Component:
    """Returns the component `FILE.py:NAME`.

    Its kind is `kind` if given, else the kind for which it is registered, else the kind that `kind_of` infers.
    """
    module = module_of(reference.file)
    value = getattr(module, reference.name, None)
    registered = [
        each
        for each in discovery.load(reference.file)
        if reference.name in (each.name, each.name.rpartition(".")[2]) or (value is not None and each.target is value)
    ]
    kinds = [kind] if kind else [each.kind for each in registered] or [*filter(None, [kind_of(value)])]
    if not kinds and value is not None:
        raise PluginError(
            f"'{reference.name}' of {reference.file} does not show what it is; annotate it, decorate it with "
            f"vitkit.plugins.register_objective or its like, or give its kind: {', '.join(ATTRIBUTES)}"
        )
    chosen = kinds[0] if kinds else "objective"
    name = resolve(chosen, target).partition(":")[0]
    component = discovery.component(chosen, name)
    assert component is not None, "resolve registers it"
    return component


def _undecorated(target: str, kind: str | None) -> Iterator[Component]:
    """Registers and yields the objects of a file whose kind follows from their types or annotations."""
    if parse(target) is None:
        return
    for name, value in public(module_of(target)).items():
        shown = kind_of(value)
        if shown is not None and kind in (None, shown):
            found = discovery.component(shown, resolve(shown, f"{target}:{name}"))
            if found is not None:
                yield found


def kind_of(value: object) -> str | None:
    """Returns the kind of an object, inferred from its type or annotations, or None if it is unknown."""
    if isinstance(value, Run | Recipe):
        return "recipe"
    if isinstance(value, type):
        classes = {Backbone: "model", Objective: "objective", Source: "source"}
        return next((kind for each, kind in classes.items() if issubclass(value, each)), None)
    if not inspect.isfunction(value):
        return None
    try:
        hints = get_type_hints(value)
    except (NameError, TypeError):
        return None
    returned, taken = hints.pop("return", None), set(hints.values())
    if ModelOutputs in taken:
        return "evaluator"
    if ExplainInputs in taken or returned is Explanation:
        return "explanation"
    if Batch in taken:
        return "objective"
    if returned is Run:
        return "recipe"
    is_source = isinstance(returned, type) and issubclass(returned, Source)
    return "source" if is_source or "Source" in str(returned) else None


def _nothing(target: str, kind: str | None) -> str:
    kinds = {kind: EXAMPLES[kind]} if kind else EXAMPLES
    forms = "; ".join(f"{each}: {attributes}" for each, attributes in kinds.items())
    what = f"no {kind}" if kind else "no component"
    return f"'{target}' has {what}; use a decorator of vitkit.plugins, or write the attributes of a kind ({forms})"
