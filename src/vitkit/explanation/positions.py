"""Cosine similarity of position embeddings (ViT paper, Figures 7 center and 10)."""

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitkit.explanation import ExplainInputs, Explanation, Tiles
from vitkit.explanation._hooks import token_backbone
from vitkit.models import Backbone

#: Maximum number of tiles per side of the drawing; larger grids are subsampled. The arrays are complete.
MAX_TILES = 16


def position_similarity(model: Backbone) -> Float[Tensor, "rows columns rows columns"]:
    """Returns the cosine similarities between the position embeddings of all patches, at the native image size.

    Raises ValueError for a model without tokens and for one that adds no position embedding to its patches.
    """
    backbone = token_backbone(model)
    positions = getattr(backbone, "positions", None)
    table = None if positions is None else positions(backbone.config.grid)
    if table is None:
        raise ValueError(
            f"this {type(model).__name__} adds no position embedding to its patches; use a model with "
            "position embeddings"
        )
    rows, columns = backbone.config.grid
    # Special tokens come first.
    patches = F.normalize(table[0, table.shape[1] - math.prod((rows, columns)) :].detach().float(), dim=-1)
    return (patches @ patches.T).view(rows, columns, rows, columns)


def explain(subject: ExplainInputs) -> Explanation:
    """Shows a tile for each patch: the cosine similarity of its position embedding to those of all patches.

    Arrays: `similarity` (rows, columns, rows, columns).
    """
    similarity = position_similarity(subject.model).cpu().numpy()
    rows, columns = similarity.shape[:2]
    stride = max(math.ceil(rows / MAX_TILES), math.ceil(columns / MAX_TILES))
    return Explanation(
        arrays={"similarity": similarity},
        drawing=Tiles(
            "Position embedding similarity",
            similarity[stride // 2 :: stride, stride // 2 :: stride],
            x_label="input patch column",
            y_label="input patch row",
            scale="cosine similarity",
        ),
    )
