"""Position-embedding similarity: what a model has learned of where patches are (ViT paper, Figures 7 centre and 10)."""

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitkit.explain import Explanation, Subject, Tiles
from vitkit.explain.look import token_backbone
from vitkit.models import Backbone

#: At most so many tiles a side are drawn; a larger grid is thinned out evenly. The arrays hold all.
MOST_TILES = 16


def position_similarity(model: Backbone) -> Float[Tensor, "rows columns rows columns"]:
    """Cosine similarity of the position embedding of each patch to that of every other, at the native image size.

    Raises ValueError for a convolutional model and for one that adds no position embedding to its patches.
    """
    backbone = token_backbone(model)
    positions = getattr(backbone, "positions", None)
    table = None if positions is None else positions(backbone.config.grid)
    if table is None:
        raise ValueError(
            f"this {type(model).__name__} adds no position embedding to its patches: there is none to compare"
        )
    rows, columns = backbone.config.grid
    # The rows of special tokens, if any, stand first.
    patches = F.normalize(table[0, table.shape[1] - math.prod((rows, columns)) :].detach().float(), dim=-1)
    return (patches @ patches.T).view(rows, columns, rows, columns)


def explain(subject: Subject) -> Explanation:
    """One tile for each patch: how similar its position embedding is to those of all patches.

    Arrays: `similarity` (rows, columns, rows, columns).
    """
    similarity = position_similarity(subject.model).cpu().numpy()
    rows, columns = similarity.shape[:2]
    thin = max(math.ceil(rows / MOST_TILES), math.ceil(columns / MOST_TILES))
    return Explanation(
        arrays={"similarity": similarity},
        drawing=Tiles(
            "Position embedding similarity",
            similarity[thin // 2 :: thin, thin // 2 :: thin],
            x_label="input patch column",
            y_label="input patch row",
            scale="cosine similarity",
        ),
    )
