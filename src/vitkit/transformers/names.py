"""The names of modules and parameters in transformers 4 and 5.

The module tree is that of transformers 4 (`encoder.layer.0.attention.attention.query`). Modules have properties with
the names of transformers 5.9 and later (`layers.0.attention.q_proj`), so that `get_submodule` and assignments work with
both. `state_dict`, `named_modules` and `named_parameters` have one name for each object, in the model's `name_format`;
`load_state_dict` and `from_pretrained` accept both.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, TypeVar

from torch import Tensor, nn

NAME_FORMATS = ("v4", "v5")
T = TypeVar("T")

# Modules of a layer: v5 name to v4 name.
V5_TO_V4 = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.activation_fn": "intermediate.intermediate_act_fn",
    "mlp.fc2": "output.dense",
}
V4_TO_V5 = {v4: v5 for v5, v4 in V5_TO_V4.items()}
# Modules of a layer in the order of transformers 5.
V5_ORDER = ("", "attention", "layernorm_before", "layernorm_after", "intermediate", "mlp", "output")


def to_v5(name: str) -> str:
    """Converts the transformers 4 name of a parameter or module to transformers 5. Returns other names unchanged."""
    if name == "encoder.layer":
        return "layers"
    match = re.fullmatch(r"encoder\.layer\.(\d+)(\..*)?", name, flags=re.DOTALL)
    return name if match is None else f"layers.{match[1]}{_replace_prefix(match[2] or '', V4_TO_V5)}"


def to_v4(name: str) -> str:
    """Converts the transformers 5 name of a parameter or module to transformers 4. Returns other names unchanged."""
    if name == "layers":
        return "encoder.layer"
    match = re.fullmatch(r"layers\.(\d+)(\..*)?", name, flags=re.DOTALL)
    return name if match is None else f"encoder.layer.{match[1]}{_replace_prefix(match[2] or '', V5_TO_V4)}"


def _replace_prefix(name: str, prefixes: Mapping[str, str]) -> str:
    for old, new in prefixes.items():
        if name == f".{old}" or name.startswith(f".{old}."):
            return f".{new}{name[len(old) + 1 :]}"
    return name


def rename(mapping: MutableMapping[str, Tensor], prefix: str, convert: Callable[[str], str]) -> None:
    """Renames the keys that start with a prefix, in place. Raises ValueError if two keys get the same name."""
    entries = [(name, value) for name, value in mapping.items()]
    names = [prefix + convert(name[len(prefix) :]) if name.startswith(prefix) else name for name, _ in entries]
    if names == [name for name, _ in entries]:
        return
    if duplicates := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ValueError(
            f"the state dict contains {duplicates[0]} under both its transformers 4 and transformers 5 names"
        )
    mapping.clear()
    mapping.update(zip(names, (value for _, value in entries), strict=True))


def accept_both_formats(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Pre-hook of `load_state_dict` that converts parameter names of transformers 5 to transformers 4."""
    rename(state_dict, prefix, to_v4)


def write_name_format(module: Any, state_dict: dict[str, Tensor], prefix: str, _: object) -> None:
    """Hook of `state_dict` that converts parameter names to the model's `name_format`, and orders them accordingly."""
    if module._name_format == "v5":
        rename(state_dict, prefix, to_v5)
        entries = in_v5_order([(name.removeprefix(prefix), name) for name in state_dict])
        ordered = {name: state_dict[name] for _, name in entries}
        state_dict.clear()
        state_dict.update(ordered)


def report_name_format(module: Any, incompatible_keys: Any) -> None:
    """Hook of `load_state_dict` that converts the reported names to the model's `name_format`."""
    if module._name_format == "v5":
        for names in incompatible_keys:
            names[:] = [_report(name) for name in names]


def _report(name: str) -> str:
    before, dot, own = re.fullmatch(r"(?:(.*?)(\.))?(encoder\.layer\..*)|.*", name, flags=re.DOTALL).groups("")  # type: ignore[union-attr]
    return f"{before}{dot}{to_v5(own)}" if own else name


def in_v5_order(entries: Iterable[tuple[str, T]]) -> list[tuple[str, T]]:
    """Sorts the modules or parameters of each layer, given by transformers 5 names, in the order of transformers 5."""
    ordered: list[tuple[str, T]] = []
    layer: list[tuple[int, tuple[str, T]]] = []
    current = None
    for name, value in entries:
        match = re.match(r"(layers\.\d+)(?:\.([^.]*))?", name)
        if match is None or match[1] != current:
            ordered += [each for _, each in sorted(layer, key=lambda ranked: ranked[0])]
            layer, current = [], None if match is None else match[1]
        if match is None:
            ordered.append((name, value))
        else:
            part = match[2] or ""
            layer.append((V5_ORDER.index(part) if part in V5_ORDER else len(V5_ORDER), (name, value)))
    return ordered + [each for _, each in sorted(layer, key=lambda ranked: ranked[0])]


class ModuleName(str):
    """Name of a linear layer. `endswith` also accepts the end of the name in the other version of transformers.

    PEFT selects the modules of `target_modules=["q_proj", "v_proj"]` or `["query", "value"]` by the ends of their
    names.
    """

    other: str

    def __new__(cls, name: str, other: str) -> "ModuleName":
        """Creates the string `name`."""
        self = super().__new__(cls, name)
        self.other = other
        return self

    def __reduce__(self) -> tuple[type["ModuleName"], tuple[str, str]]:
        return ModuleName, (str(self), self.other)

    def endswith(self, suffix: str | tuple[str, ...], *bounds: Any) -> bool:
        """Returns whether the name, or the name in the other version, ends with a suffix."""
        return super().endswith(suffix, *bounds) or self.other.endswith(suffix, *bounds)


def named_modules(
    found: Iterable[tuple[str, nn.Module]], prefix: str, name_format: str
) -> Iterator[tuple[str, nn.Module]]:
    """Converts the names of the modules of a model to a name format.

    If PEFT is loaded, the names of linear layers are of the class `ModuleName`.
    """
    if name_format == "v4" and "peft" not in sys.modules:
        yield from found
        return
    start = f"{prefix}." if prefix else ""
    own = [(name[len(start) :] if name != prefix else "", module) for name, module in found]
    if name_format == "v5":
        own = in_v5_order((to_v5(name), module) for name, module in own)
    for name, module in own:
        other = to_v4(name) if name_format == "v5" else to_v5(name)
        full = f"{start}{name}" if name else prefix
        linear = other.rpartition(".")[2] != name.rpartition(".")[2] and "peft" in sys.modules
        yield ModuleName(full, f"{start}{other}") if linear else full, module
