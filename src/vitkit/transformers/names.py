"""Converts module names, parameter names and `forward` arguments between transformers 4 and 5.

The module tree has the v5 names, those of transformers 5.9 and later (`layers.0.attention.q_proj`). The v4 name
`encoder.layer[0].attention.attention.query` refers to the same module, `load_state_dict` and `from_pretrained` accept
both, and `named_modules` lists both, so that PEFT's `target_modules=["query", "value"]` and hooks found by name work.
`named_parameters` lists the v5 names only.
"""

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.transformers.configuration import ViTConfig
from vitkit.transformers.hub import Argument

NAME_FORMATS = ("v4", "v5")

# Modules of a layer: v5 name to v4 name.
V5_TO_V4 = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def to_v5(name: str) -> str:
    """Converts the transformers 4 name of a parameter or module to transformers 5. Returns other names unchanged."""
    match = re.fullmatch(r"encoder\.layer\.(\d+)(\..*)?", name, flags=re.DOTALL)
    return (
        name
        if match is None
        else f"layers.{match[1]}{_replace_prefix(match[2] or '', {v: k for k, v in V5_TO_V4.items()})}"
    )


def to_v4(name: str) -> str:
    """Converts the transformers 5 name of a parameter or module to transformers 4. Returns other names unchanged."""
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
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"the state dict contains {duplicates[0]} under both its transformers 4 and transformers 5 names"
        )
    mapping.clear()
    mapping.update(zip(names, (value for _, value in entries), strict=True))


def accept_both_formats(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Pre-hook of `load_state_dict` that converts parameter names of transformers 4 to transformers 5."""
    rename(state_dict, prefix, to_v5)


def write_name_format(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, _: object) -> None:
    """Hook of `state_dict` that converts parameter names to the model's `name_format`."""
    if module._name_format == "v4":
        rename(state_dict, prefix, to_v4)


class ModuleAlias(nn.Module):
    """Alias of a module under its name in transformers 4. Attributes, calls and hooks are those of the module.

    It is not an `nn.Linear` and has no parameters, so that code that selects modules by type or counts parameters sees
    each module once.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.__dict__["module"] = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["module"], name)

    def forward(self, *args: object, **kwargs: object) -> object:
        """Calls the aliased module, including its hooks."""
        return self.__dict__["module"](*args, **kwargs)

    def extra_repr(self) -> str:
        """Returns the repr of the aliased module."""
        return repr(self.__dict__["module"])


def _forwarded(method: str) -> Callable[..., object]:
    def forward(self: ModuleAlias, *args: object, **kwargs: object) -> object:
        return getattr(self.__dict__["module"], method)(*args, **kwargs)

    return forward


HOOKS = tuple(name for name in dir(nn.Module) if name.startswith("register_") and name.endswith("_hook"))
for _name in HOOKS:
    setattr(ModuleAlias, _name, _forwarded(_name))


class AliasGroup(nn.Module):
    """A parent module that exists only in transformers 4, such as `encoder` or `output`.

    Its attributes are aliases of attributes of other modules: name=(module, attribute). It computes nothing, so
    registering a hook raises ValueError.
    """

    def __init__(self, **aliases: tuple[nn.Module, str]):
        super().__init__()
        self.__dict__["aliases"] = aliases

    def __getattr__(self, name: str) -> Any:
        if name not in self.__dict__["aliases"]:
            known = ", ".join(self.__dict__["aliases"])
            raise AttributeError(f"the group of modules has no '{name}'; its modules are {known}")
        module, attribute = self.__dict__["aliases"][name]
        return getattr(module, attribute)

    def __setattr__(self, name: str, value: Tensor | nn.Module) -> None:
        if name in self.__dict__.get("aliases", {}):
            module, attribute = self.__dict__["aliases"][name]
            setattr(module, attribute, value)
        else:
            super().__setattr__(name, value)


def _reject_hook(self: AliasGroup, *_: object, **__: object) -> NoReturn:
    names = ", ".join(f".{name}" for name in self.__dict__["aliases"])
    raise ValueError(f"a hook on a group of module aliases would never run; register it on {names}")


for _name in HOOKS:
    if "state_dict" not in _name:
        setattr(AliasGroup, _name, _reject_hook)


def module_aliases(layers: nn.ModuleList, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Yields an alias with the transformers 4 name for each layer and for each renamed module in it."""
    for index, layer in enumerate(layers):
        v4_layer = f"{prefix}encoder.layer.{index}"
        yield v4_layer, ModuleAlias(layer)
        for v5, v4 in V5_TO_V4.items():
            yield f"{v4_layer}.{v4}", ModuleAlias(layer.get_submodule(v5))


Forward = Callable[..., Any]


def accept_both_orders(v5_names: Sequence[str]) -> Callable[[Forward], Forward]:
    """Decorator that lets `forward` methods accept the argument order of transformers 4 or 5.

    `v5_names` are the positional parameters of version 5. A call is read as version 5 if it cannot be version 4: a bool
    where 4 has labels or a head mask, a tensor where 4 has a flag, labels where 4 has a head mask (integers, or floats
    with the shape of labels and not of a head mask). Raises ValueError for floats that could be either.
    """

    def decorate(forward: Forward) -> Forward:
        parameters = inspect.signature(forward).parameters.values()
        v4_names = [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY][1:]

        @functools.wraps(forward)
        def call(self: Any, *args: Argument, **kwargs: Argument) -> Any:
            # TorchScript passes the defaults of all parameters, also of those that are only keywords.
            while args and args[-1] is None:
                args = args[:-1]
            if not args[1:]:
                return forward(self, *args, **kwargs)
            names = v5_names if _is_v5_call(self.config, args, v4_names) else v4_names
            if len(args) > len(names):
                raise TypeError(
                    f"forward takes {len(names)} positional arguments ({', '.join(names)}), got {len(args)}"
                )
            named = dict(zip(names, args, strict=False))
            return forward(self, **named, **kwargs)

        return call

    return decorate


def _is_v5_call(config: ViTConfig, args: Sequence[Argument], v4_names: Sequence[str]) -> bool:
    flags = ("output_attentions", "output_hidden_states", "interpolate_pos_encoding", "return_dict")
    for name, value in zip(v4_names, args, strict=False):
        if name in flags and isinstance(value, Tensor):
            return True
        if name in ("labels", "head_mask") and isinstance(value, bool):
            return True
    if v4_names[1] == "head_mask" and isinstance(args[1], Tensor) and not any(isinstance(x, Tensor) for x in args[2:3]):
        return _is_labels(config, args[1], batch=args[0].shape[0])
    return False


def _is_labels(config: ViTConfig, value: Tensor, batch: int) -> bool:
    if not value.is_floating_point():
        return True
    heads, layers = config.num_attention_heads, config.num_hidden_layers
    as_labels = value.shape in {(batch, config.num_labels)} | ({(batch,)} if config.num_labels == 1 else set())
    as_mask = value.shape in {(heads,), (layers, heads)} or value.ndim == 5
    if as_labels and as_mask:
        raise ValueError(
            f"the second argument, of shape {tuple(value.shape)}, could be labels or head_mask; pass it as a keyword"
        )
    return as_labels


def selected_layers(selection: bool | int | Sequence[int] | None, count: int, argument: str) -> frozenset[int]:
    """Returns the indices of the selected layers. Negative indices count from the end.

    Raises ValueError for an index out of range.
    """
    if selection is None or isinstance(selection, bool):
        return frozenset(range(count)) if selection else frozenset()
    indices = [selection] if isinstance(selection, int) else list(selection)
    if invalid := [index for index in indices if not -count <= index < count]:
        raise ValueError(f"{argument} contains {invalid}; expected indices from {-count} to {count - 1}")
    return frozenset(index % count for index in indices)


def attention_bias(attention_mask: Tensor | None, dtype: torch.dtype) -> Float[Tensor, "..."] | None:
    """Converts an attention mask, (b, n) or broadcastable to (b, h, n, n), to a bias of the attention logits.

    True or 1 includes a token (the class token is the first), False or 0 excludes it; a floating-point mask with four
    dimensions is added unchanged. Raises ValueError for another number of dimensions.
    """
    if attention_mask is None:
        return None
    if attention_mask.ndim == 4:
        if attention_mask.is_floating_point():
            return attention_mask.to(dtype)
        keep = attention_mask.bool()
    elif attention_mask.ndim == 2:
        keep = attention_mask.bool()[:, None, None, :]
    else:
        raise ValueError(f"attention_mask has shape {tuple(attention_mask.shape)}; expected (b, n) or (b, h, n, n)")
    # The smallest number instead of minus infinity, so that an image with all tokens masked does not give NaN.
    return torch.zeros(keep.shape, dtype=dtype, device=keep.device).masked_fill(~keep, torch.finfo(dtype).min)


def head_masks(
    head_mask: Tensor | Sequence[Tensor | None] | None, config: ViTConfig, dtype: torch.dtype
) -> Sequence[Tensor | None]:
    """Splits a head mask into one mask per layer.

    Shapes: (h,), (layers, h) or (layers, b or 1, h, n or 1, n or 1). The mask multiplies the attention weights, so 0
    disables a head. Raises ValueError for another shape.
    """
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    if head_mask is None:
        return [None] * layers
    if not isinstance(head_mask, Tensor):
        if len(head_mask) != layers:
            raise ValueError(f"head_mask has {len(head_mask)} entries; expected one per layer, {layers}")
        return [None if mask is None else mask.to(dtype) for mask in head_mask]
    mask = head_mask.to(dtype)
    if mask.shape == (heads,):
        mask = mask.expand(layers, heads)
    if mask.shape == (layers, heads):
        mask = mask[:, None, :, None, None]
    if mask.ndim != 5 or mask.shape[0] != layers:
        raise ValueError(
            f"head_mask has shape {tuple(head_mask.shape)}; expected ({heads},), ({layers}, {heads}) or five dimensions"
        )
    return mask.unbind(0)
