"""Foreground masks from attention alone: the patches that hold most of a head's mass (DINO; Caron et al. 2021)."""

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from vitkit.explain import Explanation, Map, Overlay, Subject
from vitkit.explain.attention import attention_maps
from vitkit.explain.look import query_name
from vitkit.explain.subject import need_images, top_classes


def foreground_mask(attention: Float[Tensor, "*b rows columns"], share: float = 0.6) -> Bool[Tensor, "*b rows columns"]:
    """The smallest set of patches that holds at least `share` of the mass of each map.

    As a loop: drop patches, the lightest first, while what is dropped stays within 1 - share of the mass.
    Raises ValueError for a share outside 0..1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of the mass to keep is {share}; it is above 0 and at most 1")
    flat = attention.flatten(-2).double()
    mass, order = flat.sort(dim=-1)
    cumulated = (mass / mass.sum(dim=-1, keepdim=True)).cumsum(dim=-1)
    kept = (cumulated > 1 - share).to(flat.dtype)
    return kept.new_zeros(flat.shape).scatter(-1, order, kept).bool().view(attention.shape)


def explain(subject: Subject, *, layer: int = -1, head: int | None = None, share: float = 0.6) -> Explanation:
    """Masks over each picture, for one head or for all heads and their mean, from the attention of one layer.

    Arrays: `masks` (b, heads, rows, columns), bool; `mean_mask` (b, rows, columns); `maps`, the attention behind them.
    """
    need_images(subject)
    found = attention_maps(subject.model, subject.pixels, [layer])
    maps = found.maps[:, 0]
    num_heads = maps.shape[1]
    if head is not None and not -num_heads <= head < num_heads:
        raise ValueError(f"there is no head {head}: the layer has heads 0 to {num_heads - 1}")
    masks = foreground_mask(maps, share).cpu().numpy()
    mean_mask = foreground_mask(maps.mean(dim=1), share).cpu().numpy()
    heads = range(num_heads) if head is None else [head % num_heads]
    drawn = [Map(f"head {index}", masks[:, index].astype(np.float32), "mask") for index in heads]
    if head is None:
        drawn.insert(0, Map("mean of heads", mean_mask.astype(np.float32), "mask"))
    title = f"{share:.0%} of the attention of {query_name(found.query)}, layer {found.layers[0]}"
    captions = top_classes(subject)
    return Explanation(
        arrays={"masks": masks, "mean_mask": mean_mask, "maps": maps.cpu().numpy()},
        drawing=Overlay(title, subject.pictures, captions, tuple(drawn)),
    )
