"""What `forward` was called with: two orders of positional arguments, layers to record, masks of heads and tokens."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vitkit.transformers.configuration import ViTConfig

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
