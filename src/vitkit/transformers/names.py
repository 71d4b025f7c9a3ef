"""The two families of names: the module tree has those of transformers 5.9 and later, and answers to those before.

The tree itself is the newer one (`layers.0.attention.q_proj`). `encoder.layer[0].attention.attention.query` gives the
same module, `load_state_dict` and `from_pretrained` take both, and `named_modules` lists both, so that PEFT's
`target_modules=["query", "value"]` and hooks found by name work. Parameters have one name, the newer one.
"""

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.transformers.configuration import ViTConfig

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


Forward = Callable[..., Any]


def either_order(newer: Sequence[str]) -> Callable[[Forward], Forward]:
    """Lets a `forward` declared in the order of transformers 4 be called by place in the order of transformers 5 too.

    `newer` are the first names of version 5. A call is read as version 5 where it cannot be version 4: a bool where 4
    has labels or a head mask, a tensor where 4 has a flag, labels where 4 has a head mask (integers; or floats of the
    shape of labels and not of a head mask). ValueError where floats could be either: then say which by name.
    """

    def decorate(forward: Forward) -> Forward:
        parameters = inspect.signature(forward).parameters.values()
        older = [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY][1:]

        @functools.wraps(forward)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not args[1:]:
                return forward(self, *args, **kwargs)
            names = newer if _is_newer(self.config, args, older) else older
            if len(args) > len(names):
                raise TypeError(
                    f"forward takes {len(names)} positional arguments ({', '.join(names)}), not {len(args)}"
                )
            named = dict(zip(names, args, strict=False))
            return forward(self, **named, **kwargs)

        return call

    return decorate


def _is_newer(config: ViTConfig, args: Sequence[Any], older: Sequence[str]) -> bool:
    flags = ("output_attentions", "output_hidden_states", "interpolate_pos_encoding", "return_dict")
    for name, value in zip(older, args, strict=False):
        if name in flags and isinstance(value, Tensor):
            return True
        if name in ("labels", "head_mask") and isinstance(value, bool):
            return True
    if older[1] == "head_mask" and isinstance(args[1], Tensor) and not any(isinstance(x, Tensor) for x in args[2:3]):
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
            f"a second argument of shape {tuple(value.shape)} may be labels= or head_mask=: say which by name"
        )
    return as_labels


def chosen(which: bool | int | Sequence[int] | None, count: int, name: str) -> frozenset[int]:
    """The places that were asked for, of `count`: all for True, one for an int, those of a list; negative from the end.

    Raises ValueError, which names the argument, for a place that there is not.
    """
    if which is None or isinstance(which, bool):
        return frozenset(range(count)) if which else frozenset()
    wanted = [which] if isinstance(which, int) else list(which)
    if wrong := [index for index in wanted if not -count <= index < count]:
        raise ValueError(f"{name} asks for {wrong}, but there are {count}: {-count} to {count - 1}")
    return frozenset(index % count for index in wanted)


def token_bias(attention_mask: Tensor | None, dtype: torch.dtype) -> Float[Tensor, "..."] | None:
    """What is added to the attention logits for a mask of tokens: (b, n), or one that broadcasts to (b, h, n, n).

    True or 1 keeps a token, False or 0 hides it; four axes of floats are added as they are. The class token counts.
    Raises ValueError for another number of axes.
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
        raise ValueError(f"attention_mask has the shape {tuple(attention_mask.shape)}; it takes (b, n) or (b, h, n, n)")
    # The least number rather than minus infinity, so that a picture with every token hidden gives no NaN.
    return torch.zeros(keep.shape, dtype=dtype, device=keep.device).masked_fill(~keep, torch.finfo(dtype).min)


def head_masks(
    head_mask: Tensor | Sequence[Tensor | None] | None, config: ViTConfig, dtype: torch.dtype
) -> Sequence[Tensor | None]:
    """One mask of heads a layer, or None: from (h,), (layers, h), or (layers, b or 1, h, n or 1, n or 1).

    1 keeps a head, 0 silences it, anything between scales it. Raises ValueError for another shape.
    """
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    if head_mask is None:
        return [None] * layers
    if not isinstance(head_mask, Tensor):
        if len(head_mask) != layers:
            raise ValueError(f"head_mask has {len(head_mask)} entries for {layers} layers")
        return [None if mask is None else mask.to(dtype) for mask in head_mask]
    mask = head_mask.to(dtype)
    if mask.shape == (heads,):
        mask = mask.expand(layers, heads)
    if mask.shape == (layers, heads):
        mask = mask[:, None, :, None, None]
    if mask.ndim != 5 or mask.shape[0] != layers:
        raise ValueError(
            f"head_mask has the shape {tuple(head_mask.shape)}; it takes ({heads},), ({layers}, {heads}) or five axes"
        )
    return mask.unbind(0)
