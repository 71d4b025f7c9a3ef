"""Makes vitkit's objects pass the isinstance checks of transformers, if transformers is imported.

The pipelines of transformers select outputs and image processors with isinstance. An object passes if its `__class__`
inherits from the class of transformers; its type stays vitkit's. transformers is never imported here.
"""

import sys
from functools import cache
from typing import Any


def recognized_class(own: type[Any], module: str, name: str) -> type[Any]:
    """Returns a class that inherits from `own` and from the class `name` in a module of transformers.

    Returns `own` if the module has not been imported.
    """
    theirs = getattr(sys.modules.get(module), name, None)
    return _joint_class(own, theirs) if isinstance(theirs, type) and not issubclass(own, theirs) else own


@cache
def _joint_class(own: type[Any], theirs: type[Any]) -> type[Any]:
    """Returns a subclass of both classes with the name of the first."""
    namespace = {"__module__": own.__module__, "__doc__": own.__doc__, "__qualname__": own.__qualname__}
    metaclass: Any = type(own)
    return metaclass(own.__name__, (own, theirs), namespace)


def rebuild(own: type[Any], attributes: dict[str, Any]) -> Any:
    """Creates an object from its class and attributes. pickle uses this, because `__class__` differs from the type."""
    instance = object.__new__(own)
    instance.__dict__.update(attributes)
    return instance
