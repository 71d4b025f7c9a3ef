"""Foreground masks: the patches that get most of a head's attention (DINO, Caron et al. 2021)."""

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from vitkit.explanation import ExplainInputs, Explanation, Map, Overlay
from vitkit.explanation._hooks import query_name
from vitkit.explanation._inputs import require_images, top_classes
from vitkit.explanation.attention import attention_maps


def foreground_mask(attention: Float[Tensor, "*b rows columns"], share: float = 0.6) -> Bool[Tensor, "*b rows columns"]:
    """Returns, for each map, the smallest set of patches that receives the fraction `share` of the attention.

    As a loop: drop the patch with the least attention while the dropped attention is at most 1 - share of the total.
    Raises ValueError for a fraction outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; expected a fraction above 0 and at most 1")
    flat = attention.flatten(-2).double()
    values, order = flat.sort(dim=-1)
    cumulated = (values / values.sum(dim=-1, keepdim=True)).cumsum(dim=-1)
    selected = (cumulated > 1 - share).to(flat.dtype)
    return selected.new_zeros(flat.shape).scatter(-1, order, selected).bool().view(attention.shape)


def explain(subject: ExplainInputs, *, layer: int = -1, head: int | None = None, share: float = 0.6) -> Explanation:
    """Shows the foreground masks of a layer, for one head or for all heads and the mean over heads.

    Arrays: `masks` (b, heads, rows, columns), bool; `mean_mask` (b, rows, columns); `maps`, the attention maps.
    """
    require_images(subject)
    attention = attention_maps(subject.model, subject.pixels, [layer])
    maps = attention.maps[:, 0]
    num_heads = maps.shape[1]
    if head is not None and not -num_heads <= head < num_heads:
        raise ValueError(f"head {head} is out of range: the layer has heads 0 to {num_heads - 1}")
    masks = foreground_mask(maps, share).cpu().numpy()
    mean_mask = foreground_mask(maps.mean(dim=1), share).cpu().numpy()
    heads = range(num_heads) if head is None else [head % num_heads]
    shown = [Map(f"head {index}", masks[:, index].astype(np.float32), "mask") for index in heads]
    if head is None:
        shown.insert(0, Map("mean of heads", mean_mask.astype(np.float32), "mask"))
    title = f"{share:.0%} of the attention of {query_name(attention.query)}, layer {attention.layers[0]}"
    captions = top_classes(subject)
    return Explanation(
        arrays={"masks": masks, "mean_mask": mean_mask, "maps": maps.cpu().numpy()},
        drawing=Overlay(title, subject.images, captions, tuple(shown)),
    )
