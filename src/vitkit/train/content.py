"""A state as tensors with names and a rest that JSON holds: what is needed to read one without unpickling anything."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def parted(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], Any]:
    """The tensors of a nested state by their paths (`training/optimizer/state/3/exp_avg`), and the rest for JSON.

    Mappings become lists of pairs, so that keys stay numbers; tuples stay tuples. Raises ValueError for anything that
    is neither a tensor nor a plain value.
    """
    tensors: dict[str, Tensor] = {}

    def visited(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            if path in tensors:
                raise ValueError(f"a state has two tensors at '{path}'")
            tensors[path] = value
            return {"tensor": path}
        if isinstance(value, Mapping):
            return {"mapping": [[key, visited(item, f"{path}/{key}")] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            items = [visited(item, f"{path}/{number}") for number, item in enumerate(value)]
            return {"tuple": items} if isinstance(value, tuple) else items
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise ValueError(f"a state holds tensors and plain values, but '{path}' is a {type(value).__name__}")

    rest = {key: visited(value, key) for key, value in state.items()}
    return tensors, rest


def joined(rest: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The state that `parted` took apart; ValueError where the two do not belong together."""

    def built(value: Any) -> Any:
        if isinstance(value, list):
            return [built(item) for item in value]
        if not isinstance(value, dict):
            return value
        match value:
            case {"tensor": str() as path} if path in tensors:
                return tensors[path]
            case {"mapping": list() as pairs}:
                return {key: built(item) for key, item in pairs}
            case {"tuple": list() as items}:
                return tuple(built(item) for item in items)
        raise ValueError(f"the state has an entry that is none: {str(value)[:80]}")

    return {key: built(value) for key, value in rest.items()}
