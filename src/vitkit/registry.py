"""Finds implementations by file name. The implementations are the public modules of a package.

Every folder of implementations (models, objectives, evaluators, data sources, commands, ...) is a package whose public
modules have the same attributes. Adding an implementation is adding a file. Modules that start with an underscore are
private helpers.
"""

import pkgutil
from collections.abc import Iterator, Sequence
from importlib import import_module
from types import ModuleType

from vitkit.config import nearest


class Registry:
    """Registry of the modules in a package that implement one kind of component. Modules are named by their files.

    Args:
        package: Dotted name of the package, usually `__name__` of its `__init__.py`.
        kind: What an implementation is called in errors ("model family").
        needs: Attributes that every implementation must have; a module without one raises TypeError.
        exclude: Public modules of the package that are not implementations.
    """

    def __init__(self, package: str, kind: str, needs: Sequence[str] = (), exclude: Sequence[str] = ()):
        self.package = package
        self.kind = kind
        self.needs = tuple(needs)
        self.exclude = frozenset(exclude)

    def names(self) -> list[str]:
        """Returns the sorted names of the modules. No module is imported."""
        modules = pkgutil.iter_modules(import_module(self.package).__path__)
        names = {module.name for module in modules if not module.name.startswith("_")}
        return sorted(names - self.exclude)

    def get(self, name: str) -> ModuleType:
        """Returns the module with this name. Raises ValueError with similar names if the name is unknown."""
        if name not in self.names():
            raise ValueError(f"unknown {self.kind} '{name}'{nearest(name, self.names())}")
        module = import_module(f"{self.package}.{name}")
        for attribute in self.needs:
            if not hasattr(module, attribute):
                raise TypeError(f"{module.__name__} is not a {self.kind}, because it has no attribute '{attribute}'")
        return module

    def __iter__(self) -> Iterator[tuple[str, ModuleType]]:
        """Yields (name, module) for every module in the package."""
        for name in self.names():
            yield name, self.get(name)
