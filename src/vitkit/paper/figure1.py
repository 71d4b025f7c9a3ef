"""Figure 1 of the ViT paper: model overview, as a table of the parts of ViT-B/16 with numbers of parameters."""

from collections.abc import Iterable

from torch import Tensor

from vitkit import models
from vitkit.models import TokenBackbone
from vitkit.paper import Experiment, Findings, Table
from vitkit.paper.small_scale import SmallScale

COLUMNS = ("part", "equation", "output", "parameters")

EXPERIMENT = Experiment(
    title="Figure 1: model overview",
    section="section 3.1",
    shows="A diagram: patches, linear projection, positions and class token, encoder blocks, head.",
    published=Table(
        ("equation", "formula"),
        (
            ("1", "tokens = [class; patches E] + positions"),
            ("2", "z' = attention(norm(z)) + z"),
            ("3", "z = MLP(norm(z')) + z'"),
            ("4", "y = norm(z of the class token)"),
        ),
    ),
    full=("vitkit inspect vit-b/16",),
    needs="",
    small="The shapes and parameters of each part for an image of 224 pixels; the same at both scales.",
    minutes=0.1,
)


def study(small: SmallScale) -> Findings:
    """Counts the parameters in each part of ViT-B/16."""
    config = models.preset("vit-b/16")
    model = models.build(config, device="meta")
    assert isinstance(model, TokenBackbone)
    tokens = config.grid[0] * config.grid[1]
    tables = [model.get_parameter(name) for name in ("cls_token", "pos_embed")]
    block = _count(model.blocks[0].parameters())
    rows = (
        ("patches, projected", "1", f"{tokens} x {config.width}", _count(model.patch_embed.parameters())),
        ("class token and positions", "1", f"{tokens + 1} x {config.width}", _count(tables)),
        ("each block", "2, 3", f"{tokens + 1} x {config.width}", block),
        (f"all {config.depth} blocks", "2, 3", f"{tokens + 1} x {config.width}", config.depth * block),
        ("final norm of the class token", "4", f"{config.width}", _count(model.norm.parameters())),
        ("head", "", f"{config.num_classes}", _count(model.head_parameters().values())),
        ("all", "", "", _count(model.parameters())),
    )
    return Findings(table=Table(COLUMNS, rows), numbers={row[0]: row[3] for row in rows})


def _count(parameters: Iterable[Tensor]) -> int:
    return sum(each.numel() for each in parameters)
