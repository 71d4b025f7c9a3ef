"""Gradient-weighted attention or, for convolutional networks, Grad-CAM: the patches that support a class.

The rule of Chefer, Gur and Wolf 2021, "Generic Attention-model Explainability", equations 5-6, for self-attention:

    R = identity;   for each layer, first to last:   R = R + mean_heads(max(0, dy/dA * A)) R

with A the layer's attention weights, dy/dA the gradient of the class's logit y with respect to them, and * elementwise.
The map is the class token's row of R over the patches, or the mean of all patch rows if the head reads no class token.
This is not the relevance propagation (LRP) of their earlier "Transformer Interpretability Beyond Attention
Visualization". The model runs with the fused kernel: with O = A V, the output of a head, dy/dA = dy/dO V^T.

Convolutional networks get Grad-CAM of the last feature map (Selvaraju et al. 2017, equations 1-2): with A_k, channel k
of the feature map, and w_k, the mean of dy/dA_k over the positions, it is max(0, sum_k w_k A_k).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.config import nearest
from vitkit.explanation import ExplainInputs, Explanation, Map, Overlay
from vitkit.explanation._hooks import check_not_exported, find_query, patch_map, query_name, token_backbone
from vitkit.explanation._inputs import label_name, require_images, top_classes
from vitkit.layers import Attention, Features, eval_mode
from vitkit.models import Backbone, TokenBackbone

#: Positional and keyword arguments of a block.
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
#: A block with the submodules of `layers.Block`, which `_check_model` looks for.
Block = Any


def class_attention(
    model: Backbone, image: Float[Tensor, "b c height width"], classes: Sequence[int] | None = None
) -> tuple[Float[Tensor, "b n n"], list[int], Features]:
    """Returns relevancy matrices (without the identity), class indices and features, for one class per image.

    `classes` is one class index per image. If None, the predicted class of each image is used. The gradients of
    different images are independent. Raises ValueError for a model without classes, a class index out of range, and a
    model without attention between patches.
    """
    backbone = _check_model(model)
    blocks: list[Block] = list(backbone.blocks)
    inputs: list[Arguments] = []
    after_attention: list[Tensor] = []
    handles = [
        handle
        for block in blocks
        for handle in (
            block.register_forward_pre_hook(_store(inputs), with_kwargs=True),
            # The input of the second norm is the residual stream after attention.
            block.norm2.register_forward_pre_hook(lambda _, args: after_attention.append(args[0])),
        )
    ]
    try:
        # If the image requires a gradient, all blocks have one, even with frozen parameters.
        with eval_mode(backbone), torch.enable_grad():
            logits = backbone(image.detach().requires_grad_())
            chosen = _classes(logits, classes)
            gradients = torch.autograd.grad(logits[range(len(chosen)), chosen].sum(), after_attention)
    finally:
        for handle in handles:
            handle.remove()
    with eval_mode(backbone), torch.no_grad():
        return _relevance(backbone, inputs, gradients), chosen, backbone.embed(image)


def grad_cam(
    model: Backbone, image: Float[Tensor, "b c height width"], classes: Sequence[int] | None = None
) -> tuple[Float[Tensor, "b rows columns"], list[int]]:
    """Returns the Grad-CAM maps of the last feature map and the class indices, for one class per image.

    `classes` is one class index per image. If None, the predicted class of each image is used. Raises ValueError for a
    model without classes and for a class index out of range.
    """
    _check_classes(model)
    with eval_mode(model), torch.enable_grad():
        with torch.no_grad():
            features = model.features(image)
        tokens = features.tokens.detach().requires_grad_()
        logits = model.logits(features.with_tokens(tokens))
        chosen = _classes(logits, classes)
        (gradient,) = torch.autograd.grad(logits[range(len(chosen)), chosen].sum(), tokens)
    weighted = gradient.float().mean(dim=1, keepdim=True) * tokens.detach().float()
    return weighted.sum(dim=2).clamp(min=0).unflatten(1, features.grid), chosen


def _check_classes(model: Backbone) -> None:
    check_not_exported(model)
    if not model.config.num_classes:
        raise ValueError("this model has no classes, so there is no logit to differentiate; use a classifier")


def _check_model(model: Backbone) -> TokenBackbone:
    backbone = token_backbone(model)
    block: Block
    _check_classes(backbone)
    for block in backbone.blocks:
        if not (isinstance(block.attn, Attention) and hasattr(block, "norm1") and hasattr(block, "norm2")):
            raise ValueError(
                f"the method gradient needs blocks with norm1, attn and norm2, not {type(block).__name__}; use rollout"
            )
    return backbone


def _store(inputs: list[Arguments]) -> Callable[..., None]:
    def before(_: nn.Module, *arguments: Any) -> None:
        inputs.append(arguments)

    return before


def _classes(logits: Tensor, classes: Sequence[int] | None) -> list[int]:
    if logits.ndim != 2:
        raise ValueError(f"the logits have shape {tuple(logits.shape)}; expected one row per image")
    chosen = logits.argmax(dim=-1).tolist() if classes is None else list(classes)
    for index in chosen:
        if not 0 <= index < logits.shape[1]:
            raise ValueError(f"class {index} is out of range: the model has classes 0 to {logits.shape[1] - 1}")
    return chosen


def _relevance(model: TokenBackbone, inputs: list[Arguments], gradients: Sequence[Tensor]) -> Tensor:
    tokens = inputs[0][0][0]
    identity = torch.eye(tokens.shape[1], device=tokens.device)
    relevance = identity.expand(tokens.shape[0], -1, -1)
    block: Block
    for block, (args, kwargs), gradient in zip(model.blocks, inputs, gradients, strict=True):
        args = (args[0].detach(), *args[1:])
        weights = block.attention_weights(*args, **kwargs)
        weighted = (weights * weight_gradient(block, args[0], gradient)).clamp(min=0).mean(dim=1)
        relevance = relevance + weighted @ relevance
    return relevance - identity


def weight_gradient(
    block: Block, tokens: Float[Tensor, "b n d"], after: Float[Tensor, "b n d"]
) -> Float[Tensor, "b h n n"]:
    """Returns the gradient of the class logits with respect to the attention weights of a block.

    `tokens` is the input of the block, and `after` is the gradient with respect to the residual stream after attention.
    Projection and layer scale are linear, so their gradient does not depend on their input.
    """
    with torch.enable_grad():
        heads_out = torch.zeros_like(tokens, requires_grad=True)
        scaled = getattr(block, "ls1", nn.Identity())(block.attn.proj(heads_out))
        (gradient,) = torch.autograd.grad(scaled, heads_out, after)
    with torch.no_grad():
        value = block.attn.heads(block.norm1(tokens))[2]
        gradient = gradient.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2)
        return gradient.float() @ value.float().transpose(-2, -1)


def explain(subject: ExplainInputs, *, label: str | int | None = None) -> Explanation:
    """Shows the patches that support the class `label`, or the predicted class if no label is given.

    Arrays: `classes` (b,); `maps` (b, rows, columns).
    """
    require_images(subject)
    requested = None if label is None else [_class_index(subject, label)]
    maps: list[Tensor] = []
    classes: list[int] = []
    title = "Grad-CAM of the last feature map"
    # One image at a time, because autograd stores every activation.
    for image in subject.pixels.split(1):
        if isinstance(subject.model, TokenBackbone):
            relevance, chosen, features = class_attention(subject.model, image, requested)
            query = find_query(token_backbone(subject.model), features)
            title = f"Gradient-weighted attention of {query_name(query)}"
            maps.append(patch_map(relevance, features, query))
        else:
            found, chosen = grad_cam(subject.model, image, requested)
            maps.append(found)
        classes += chosen
    values = torch.cat(maps).cpu().numpy()
    names = sorted({label_name(subject, index) for index in classes})
    target = f"'{names[0]}'" if len(names) == 1 else "the predicted class"
    shown = (Map(f"for {target}", values), Map("image x map", values, "light"))
    return Explanation(
        arrays={"classes": np.array(classes), "maps": values},
        drawing=Overlay(title, subject.images, top_classes(subject), shown),
    )


def _class_index(subject: ExplainInputs, label: str | int) -> int:
    """Returns the index of a class, given as an index, a label, or one of the names in a label."""
    if isinstance(label, int) or label.lstrip("-").isdigit():
        return int(label)
    wanted = label.lower().strip()
    for index, name in enumerate(subject.labels):
        if wanted == name.lower() or wanted in (part.strip() for part in name.lower().split(",")):
            return index
    raise ValueError(f"the model has no class '{label}'{nearest(label, subject.labels)}")
