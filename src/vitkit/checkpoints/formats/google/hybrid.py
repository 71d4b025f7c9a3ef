"""Google's original `.npz` files of hybrids: a ViT's names, and its ResNet's beside them (ViT paper, section 3.1)."""

from pathlib import Path
from typing import Any

from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.containers.npz import write_npz
from vitkit.checkpoints.formats import Description, Format, Found
from vitkit.checkpoints.formats._unsupported import meaning
from vitkit.checkpoints.formats.google import vit
from vitkit.checkpoints.formats.google._names import group_norm, resnet_convolution, squeezed
from vitkit.checkpoints.infer.resnet import BACKBONE, VIT_FIELDS, infer_hybrid
from vitkit.checkpoints.table import Table
from vitkit.models.vit import Config

WHAT = "Google's .npz of a hybrid"
MEANS = {"weight_eps": 1e-5, "weight_eps_on": "std", "group_norm_eps": 1e-6, "num_groups": 32}
LEAVES = ("scale", "bias")
UNIT, THEIR_UNIT = f"{BACKBONE}.stages.{{i}}.blocks.{{j}}", "block{i+1}/unit{j+1}"
TABLE = Table(
    (
        *vit.TABLE.rules,
        # The root has two homes: before stages, or alone as the whole ResNet.
        *(resnet_convolution(f"{BACKBONE}{stem}.conv", "conv_root") for stem in (".stem", "")),
        *(rule for stem in (".stem", "") for rule in group_norm(f"{BACKBONE}{stem}.norm", "gn_root", LEAVES)),
        *(resnet_convolution(f"{UNIT}.conv{part}", f"{THEIR_UNIT}/conv{part}") for part in (1, 2, 3)),
        *(rule for part in (1, 2, 3) for rule in group_norm(f"{UNIT}.norm{part}", f"{THEIR_UNIT}/gn{part}", LEAVES)),
        resnet_convolution(f"{UNIT}.downsample.conv", f"{THEIR_UNIT}/conv_proj"),
        *group_norm(f"{UNIT}.downsample.norm", f"{THEIR_UNIT}/gn_proj", LEAVES),
    )
)


def describe(found: Found) -> Description:
    """As the plain `.npz`; the epsilons are those of the original code."""
    notes: list[str] = []
    config = infer_hybrid(
        TABLE.shapes(found.tensors),
        dialect=vit.DIALECT | MEANS,
        stated={"num_heads": vit.num_heads(found, vit.ATTENTION)},
        overrides=found.overrides,
        image_size=found.image_size,
        notes=notes,
    )
    return Description(config=config, processor=preprocessing.google(config), notes=tuple(notes))


def obstacle(config: Any) -> str | None:
    """That of the plain `.npz`, and epsilons other than the original code's."""
    plain = Config(**{name: getattr(config, name) for name in VIT_FIELDS})
    return vit.obstacle(plain) or meaning(config, WHAT, MEANS)


def write(checkpoint: Checkpoint, path: Path) -> None:
    """One archive with the published (pre-Linen) names."""
    write_npz(TABLE.saved(checkpoint.model.state_dict(), checkpoint.model.config.num_heads), path)


FORMAT = Format(
    name="hybrid_npz",
    targets=("npz",),
    family="hybrid",
    table=TABLE,
    anchors=(r"conv_root/kernel", *vit.FORMAT.anchors),
    aliases=vit.FORMAT.aliases,
    suffix=".npz",
    accepts=vit.FORMAT.accepts,
    arrange=lambda tensors: squeezed(tensors, r"(^|/)gn(\d|_root|_proj)/(scale|bias)$"),
    describe=describe,
    obstacle=obstacle,
    write=write,
)
