"""Gradient-weighted class attention: what in a picture speaks for a class.

The rule of Chefer, Gur and Wolf 2021, "Generic Attention-model Explainability", equations 5-6, for self-attention:

    R = identity;   for each layer, first to last:   R = R + mean_heads(max(0, dy/dA * A)) R

with A the layer's attention weights, dy/dA the gradient of the class's logit y with respect to them, and * elementwise.
Read is the class token's row of R over the patches (the mean of all patches' rows where the head reads no class token).
It is not the relevance propagation (LRP) of their earlier "Transformer Interpretability Beyond Attention
Visualization". The model runs in its fused kernel: for O = A V, the output of a head, dy/dA = dy/dO V^T.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.config import nearest
from vitkit.explain import Explanation, Map, Overlay, Subject
from vitkit.explain.look import Query, evaluating, patch_map, query_name, query_of, token_backbone
from vitkit.explain.subject import label_name, need_images, top_classes
from vitkit.layers import Attention, Features
from vitkit.models import Backbone, TokenBackbone


def class_attention(
    model: Backbone, image: Float[Tensor, "b c height width"], classes: Sequence[int] | None = None
) -> tuple[Float[Tensor, "b n n"], list[int], Features]:
    """R less the identity, for the logit of one class an image (None: the likeliest), those classes, and the embedding.

    Gradients of one image do not touch those of another. Raises ValueError for a model without classes, a class that
    there is not, and a model that is convolutional.
    """
    backbone = _checked(model)
    blocks: list[Any] = list(backbone.blocks)
    inputs: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    middles: list[Tensor] = []
    handles = [
        handle
        for block in blocks
        for handle in (
            block.register_forward_pre_hook(_keep(inputs), with_kwargs=True),
            # The input of the second norm is the residual stream right after attention, as tokens.
            block.norm2.register_forward_pre_hook(lambda _, args: middles.append(args[0])),
        )
    ]
    try:
        # A picture that wants a gradient has one go through all blocks, frozen parameters or not.
        with evaluating(backbone), torch.enable_grad():
            logits = backbone(image.detach().requires_grad_())
            chosen = _classes(logits, classes)
            gradients = torch.autograd.grad(logits[range(len(chosen)), chosen].sum(), middles)
    finally:
        for handle in handles:
            handle.remove()
    with evaluating(backbone), torch.no_grad():
        return _relevance(backbone, inputs, gradients), chosen, backbone.embed(image)


def _checked(model: Backbone) -> TokenBackbone:
    backbone = token_backbone(model)
    block: Any
    if not backbone.config.num_classes:
        raise ValueError("this model has no classes: there is no logit to take the gradient of")
    for block in backbone.blocks:
        if not (isinstance(block.attn, Attention) and hasattr(block, "norm1") and hasattr(block, "norm2")):
            raise ValueError(
                f"gradients are worked out for blocks of norm1, attn and norm2, not {type(block).__name__}"
            )
    return backbone


def _keep(inputs: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> Callable[..., None]:
    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.append((args, kwargs))

    return before


def _classes(logits: Tensor, classes: Sequence[int] | None) -> list[int]:
    if logits.ndim != 2:
        raise ValueError(f"this model gives logits of shape {tuple(logits.shape)}, not one row an image")
    chosen = logits.argmax(dim=-1).tolist() if classes is None else list(classes)
    for index in chosen:
        if not 0 <= index < logits.shape[1]:
            raise ValueError(f"there is no class {index}: the model has classes 0 to {logits.shape[1] - 1}")
    return chosen


def _relevance(
    model: TokenBackbone, inputs: list[tuple[tuple[Any, ...], dict[str, Any]]], gradients: Sequence[Tensor]
) -> Tensor:
    tokens = inputs[0][0][0]
    identity = torch.eye(tokens.shape[1], device=tokens.device)
    relevance = identity.expand(tokens.shape[0], -1, -1)
    block: Any
    for block, (args, kwargs), gradient in zip(model.blocks, inputs, gradients, strict=True):
        args = (args[0].detach(), *args[1:])
        weights = block.attention_weights(*args, **kwargs)
        weighted = (weights * weight_gradient(block, args[0], gradient)).clamp(min=0).mean(dim=1)
        relevance = relevance + weighted @ relevance
    return relevance - identity


def weight_gradient(
    block: Any, tokens: Float[Tensor, "b n d"], after: Float[Tensor, "b n d"]
) -> Float[Tensor, "b h n n"]:
    """The gradient with respect to a block's attention weights, from that of the residual stream after attention.

    `tokens` are the block's input. Projection and layer scale are linear, so what they are handed does not matter.
    """
    with torch.enable_grad():
        heads_out = torch.zeros_like(tokens, requires_grad=True)
        scaled = getattr(block, "ls1", nn.Identity())(block.attn.proj(heads_out))
        (gradient,) = torch.autograd.grad(scaled, heads_out, after)
    with torch.no_grad():
        value = block.attn.heads(block.norm1(tokens))[2]
        gradient = gradient.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2)
        return gradient.float() @ value.float().transpose(-2, -1)


def explain(subject: Subject, *, label: str | int | None = None) -> Explanation:
    """What speaks for a class in each picture: that of name or number `label`, or the likeliest.

    Arrays: `classes` (b,); `maps` (b, rows, columns).
    """
    need_images(subject)
    given = None if label is None else [_find(subject, label)]
    maps: list[Tensor] = []
    classes: list[int] = []
    query: Query = "class"
    # One by one: a graph of every activation is kept.
    for image in subject.pixels.split(1):
        relevance, chosen, features = class_attention(subject.model, image, given)
        query = query_of(token_backbone(subject.model), features)
        maps.append(patch_map(relevance, features, query))
        classes += chosen
    found = torch.cat(maps).cpu().numpy()
    names = sorted({label_name(subject, index) for index in classes})
    what = f"'{names[0]}'" if len(names) == 1 else "the likeliest class"
    drawn = (Map(f"for {what}", found), Map("picture x map", found, "light"))
    title = f"Gradient-weighted attention of {query_name(query)}"
    return Explanation(
        arrays={"classes": np.array(classes), "maps": found},
        drawing=Overlay(title, subject.pictures, top_classes(subject), drawn),
    )


def _find(subject: Subject, label: str | int) -> int:
    """The number of a class; a label is matched whole, or by one of its names between commas."""
    if isinstance(label, int) or label.lstrip("-").isdigit():
        return int(label)
    wanted = label.lower().strip()
    for index, name in enumerate(subject.labels):
        if wanted == name.lower() or wanted in (part.strip() for part in name.lower().split(",")):
            return index
    raise ValueError(f"the model has no class '{label}'{nearest(label, subject.labels)}")
