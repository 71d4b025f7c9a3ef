"""The two families of names: the module tree has those of transformers 5.9 and later, and answers to those before.

The tree itself is the newer one (`layers.0.attention.q_proj`). `encoder.layer[0].attention.attention.query` gives the
same module, `load_state_dict` and `from_pretrained` take both, and `named_modules` lists both, so that PEFT's
`target_modules=["query", "value"]` and hooks found by name work. Parameters have one name, the newer one.
"""

import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from torch import nn

DIALECTS = ("v4", "v5")

# Inside a layer: the newer name, then the older one.
PARTS = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def to_v5(name: str) -> str:
    """The newer name of a parameter or module of a ViTModel; one that is newer already, or neither, as it is."""
    match = re.fullmatch(r"encoder\.layer\.(\d+)(\..*)?", name, flags=re.DOTALL)
    return name if match is None else f"layers.{match[1]}{_swap(match[2] or '', {v: k for k, v in PARTS.items()})}"


def to_v4(name: str) -> str:
    """The older name of a parameter or module of a ViTModel; one that is older already, or neither, as it is."""
    match = re.fullmatch(r"layers\.(\d+)(\..*)?", name, flags=re.DOTALL)
    return name if match is None else f"encoder.layer.{match[1]}{_swap(match[2] or '', PARTS)}"


def _swap(rest: str, parts: Mapping[str, str]) -> str:
    for part, other in parts.items():
        if rest == f".{part}" or rest.startswith(f".{part}."):
            return f".{other}{rest[len(part) + 1 :]}"
    return rest


def rename(mapping: MutableMapping[str, Any], prefix: str, convert: Callable[[str], str]) -> None:
    """Renames the keys under a prefix in place, order kept; ValueError where two would be one."""
    entries = [(name, value) for name, value in mapping.items()]
    names = [prefix + convert(name[len(prefix) :]) if name.startswith(prefix) else name for name, _ in entries]
    if names == [name for name, _ in entries]:
        return
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"the state dict has {twice[0]} under both its names")
    mapping.clear()
    mapping.update(zip(names, (value for _, value in entries), strict=True))


def accept_both(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """The hook by which a ViTModel loads either family."""
    rename(state_dict, prefix, to_v5)


def write_chosen(module: nn.Module, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    """The hook by which the state dict of a ViTModel has the family that its `dialect` says."""
    if module.names == "v4":
        rename(state_dict, prefix, to_v4)


class OtherName(nn.Module):
    """Stands for a module in `named_modules` under its older name: what is asked of it, hooks too, reaches the module.

    It is no `nn.Linear` and has no parameters, so that code that goes by type or counts weights meets each module once.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.__dict__["module"] = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["module"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the module, hooks included."""
        return self.__dict__["module"](*args, **kwargs)

    def extra_repr(self) -> str:
        """What stands behind."""
        return repr(self.__dict__["module"])


def _reaching(method: str) -> Callable[..., Any]:
    def reach(self: OtherName, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.__dict__["module"], method)(*args, **kwargs)

    return reach


HOOKS = tuple(name for name in dir(nn.Module) if name.startswith("register_") and name.endswith("_hook"))
for _name in HOOKS:
    setattr(OtherName, _name, _reaching(_name))


class Shelf(nn.Module):
    """An older grouping of modules that is no module of its own: `encoder`, `attention.attention`, `output` and so on.

    Reading or setting a name reads or sets the newer place. It computes nothing, so a hook on it is refused.
    """

    def __init__(self, **places: tuple[nn.Module, str]):
        super().__init__()
        self.__dict__["places"] = places

    def __getattr__(self, name: str) -> Any:
        if name not in self.__dict__["places"]:
            there = ", ".join(self.__dict__["places"])
            raise AttributeError(f"there is no '{name}' here; this older grouping of layers has {there}")
        parent, newer = self.__dict__["places"][name]
        return getattr(parent, newer)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("places", {}):
            parent, newer = self.__dict__["places"][name]
            setattr(parent, newer, value)
        else:
            super().__setattr__(name, value)


def _refused(self: Shelf, *_: Any, **__: Any) -> Any:
    there = ", ".join(f".{name}" for name in self.__dict__["places"])
    raise ValueError(
        f"this is an older name for a place, it computes nothing that a hook could see: hook {there} instead"
    )


for _name in HOOKS:
    if "state_dict" not in _name:
        setattr(Shelf, _name, _refused)


def other_names(layers: nn.ModuleList, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Layers and their renamed parts under the older names, each behind an `OtherName`."""
    for index, layer in enumerate(layers):
        older = f"{prefix}encoder.layer.{index}"
        yield older, OtherName(layer)
        for newer, name in PARTS.items():
            yield f"{older}.{name}", OtherName(layer.get_submodule(newer))
