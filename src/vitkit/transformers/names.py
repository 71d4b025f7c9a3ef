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
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor, nn

NAME_FORMATS = ("v4", "v5")
T = TypeVar("T")

# Modules of a layer: v5 name to v4 name.
ATTENTION = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}
MLP = {
    "mlp.fc1": "intermediate.dense",
    "mlp.activation_fn": "intermediate.intermediate_act_fn",
    "mlp.fc2": "output.dense",
}
# Parts of a layer in the order of transformers 5.
LAYER_ORDER = (
    "",
    "lambda_1",
    "lambda_2",
    "attention",
    "layernorm_before",
    "layernorm_after",
    "intermediate",
    "mlp",
    "output",
)


@dataclass(frozen=True)
class Names:
    """The names of modules and parameters in transformers 4 and 5, for one model class.

    layers   names of the lists of layers: v5 name to v4 name
    inside   modules of each layer: v5 name to v4 name
    other    other modules: v5 name to v4 name
    order    parts of a module in the order of transformers 5, by a pattern of the v5 name of the module
    """

    layers: Mapping[str, str] = field(default_factory=dict)
    inside: Mapping[str, str] = field(default_factory=dict)
    other: Mapping[str, str] = field(default_factory=dict)
    order: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def to_v4(self, name: str) -> str:
        """Converts the transformers 5 name of a parameter or module to transformers 4. Leaves other names unchanged."""
        return _convert(name, self.layers, self.inside, self.other)

    def to_v5(self, name: str) -> str:
        """Converts the transformers 4 name of a parameter or module to transformers 5. Leaves other names unchanged."""
        return _convert(name, *(_reversed(each) for each in (self.layers, self.inside, self.other)))


def _reversed(mapping: Mapping[str, str]) -> dict[str, str]:
    return {new: old for old, new in mapping.items()}


def _convert(name: str, layers: Mapping[str, str], inside: Mapping[str, str], other: Mapping[str, str]) -> str:
    for old, new in layers.items():
        if name == old:
            return new
        if name.startswith(f"{old}."):
            match = re.fullmatch(r"(\.\d+)(\..*)?", name[len(old) :], flags=re.DOTALL)
            return name if match is None else f"{new}{match[1]}{_replace_prefix(match[2] or '', inside)}"
    return _replace_prefix(f".{name}", other)[1:]


def _replace_prefix(name: str, prefixes: Mapping[str, str]) -> str:
    for old, new in prefixes.items():
        if name == f".{old}" or name.startswith(f".{old}."):
            return f".{new}{name[len(old) + 1 :]}"
    return name


# The names of ViT, DeiT, MAE and MSN.
VIT = Names({"layers": "encoder.layer"}, ATTENTION | MLP, order={r"layers\.\d+": LAYER_ORDER})


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


def accept_both_formats(module: Any, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Pre-hook of `load_state_dict` that converts parameter names of transformers 5 to transformers 4."""
    rename(state_dict, prefix, module.names.to_v4)


def write_name_format(module: Any, state_dict: dict[str, Tensor], prefix: str, _: object) -> None:
    """Hook of `state_dict` that converts parameter names to the model's `name_format`, and orders them accordingly."""
    if module._name_format == "v5":
        write_v5(module, state_dict, prefix)


def write_v5(module: Any, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Converts parameter names to those of transformers 5 in place, and orders them accordingly."""
    rename(state_dict, prefix, module.names.to_v5)
    module.split_for_v5(state_dict, prefix)
    inside = [(name.removeprefix(prefix), name) for name in state_dict if name.startswith(prefix)]
    ordered = iter(in_v5_order(inside, module.names))
    names = [next(ordered)[1] if name.startswith(prefix) else name for name in state_dict]
    values = [state_dict[name] for name in names]
    state_dict.clear()
    state_dict.update(zip(names, values, strict=True))


def report_name_format(module: Any, incompatible_keys: Any) -> None:
    """Hook of `load_state_dict` that converts the reported names to the model's `name_format`."""
    if module._name_format == "v5":
        for names in incompatible_keys:
            names[:] = [_report(name, module.names) for name in names]


def _report(name: str, names: Names) -> str:
    """Converts a reported name, whose module prefix is unknown to the hook, to transformers 5."""
    parts = name.split(".")
    for start in range(len(parts)):
        own = ".".join(parts[start:])
        if names.to_v4(own) != own:
            return name
        if (other := names.to_v5(own)) != own:
            return ".".join([*parts[:start], other])
    return name


def in_v5_order(entries: Iterable[tuple[str, T]], names: Names) -> list[tuple[str, T]]:
    """Sorts modules or parameters, given by transformers 5 names, in the order of transformers 5."""
    ordered = list(entries)
    for pattern, parts in names.order.items():
        groups: dict[str, list[int]] = {}
        for index, (name, _) in enumerate(ordered):
            if match := re.match(rf"({pattern})(?:\.|$)", name):
                groups.setdefault(match[1], []).append(index)
        for group, indices in groups.items():
            chosen = [ordered[index] for index in indices]
            ranks = {name: _rank(name[len(group) + 1 :].partition(".")[0], parts) for name, _ in chosen}
            for index, entry in zip(indices, sorted(chosen, key=lambda each, r=ranks: r[each[0]]), strict=True):
                ordered[index] = entry
    return ordered


def _rank(part: str, parts: tuple[str, ...]) -> int:
    return parts.index(part) if part in parts else len(parts)


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
        """Returns whether the name, or the name in the other version of transformers, ends with a suffix.

        A dot followed by the complete name in the other version also counts as a suffix. PEFT compares complete names
        for equality first, and then as a suffix after a dot.
        """
        return super().endswith(suffix, *bounds) or f".{self.other}".endswith(suffix, *bounds)


def named_modules(
    found: Iterable[tuple[str, nn.Module]], prefix: str, name_format: str, names: Names
) -> Iterator[tuple[str, nn.Module]]:
    """Converts the names of the modules of a model to a name format.

    If PEFT is loaded, the names of linear layers are `ModuleName` objects.
    """
    if names == Names() or (name_format == "v4" and "peft" not in sys.modules):
        yield from found
        return
    start = f"{prefix}." if prefix else ""
    own = [(name[len(start) :] if name != prefix else "", module, name) for name, module in found]
    if name_format == "v5":
        own = [(name, *rest) for name, rest in in_v5_order([(names.to_v5(n), (m, o)) for n, m, o in own], names)]
    for name, module, original in own:
        other = names.to_v4(name) if name_format == "v5" else names.to_v5(name)
        if isinstance(original, ModuleName):
            # The module belongs to an inner model, which has already converted its name.
            yield original, module
            continue
        full = f"{start}{name}" if name else prefix
        linear = other.rpartition(".")[2] != name.rpartition(".")[2] and "peft" in sys.modules
        yield ModuleName(full, f"{start}{other}") if linear else full, module
