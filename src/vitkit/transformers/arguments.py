"""Arguments of `forward`: positional arguments in the order of transformers 4 or 5, layer selections and masks."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vitkit.transformers.configuration import ViTConfig
from vitkit.transformers.hub import Argument

# Layers whose outputs are returned: all or none (bool), one index, or several; None uses the config.
LayerSelection = bool | int | Sequence[int] | None
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
            f"the second argument, of shape {tuple(value.shape)}, could be labels or head_mask; pass it by keyword"
        )
    return as_labels


def selected_layers(selection: LayerSelection, count: int, argument: str) -> frozenset[int]:
    """Returns the indices of the selected layers. Negative indices count from the end.

    Raises ValueError for an index out of range.
    """
    if selection is None or isinstance(selection, bool):
        return frozenset(range(count)) if selection else frozenset()
    indices = [selection] if isinstance(selection, int) else list(selection)
    if invalid := [index for index in indices if not -count <= index < count]:
        raise ValueError(f"{argument} contains {invalid}; expected indices from {-count} to {count - 1}")
    return frozenset(index % count for index in indices)


def attention_bias(
    attention_mask: Tensor | None, dtype: torch.dtype, tokens: int | None = None
) -> Float[Tensor, "..."] | None:
    """Converts an attention mask, (b, n) or broadcastable to (b, h, n, n), to a bias of the attention logits.

    True or 1 includes a token (the class token is the first), False or 0 excludes it; a floating-point mask with four
    dimensions is added unchanged. Raises ValueError for another number of dimensions, and for a mask that does not fit
    the number of tokens, if it is given.
    """
    if attention_mask is None:
        return None
    if tokens is not None and attention_mask.shape[-1] not in (1, tokens):
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; its last dimension must be {tokens}, the number "
            "of tokens (special tokens first, then one per patch)"
        )
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
            raise ValueError(f"head_mask has {len(head_mask)} entries; expected {layers}, one per layer")
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
