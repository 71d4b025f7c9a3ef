"""Google's original `.npz` files of hybrid ViTs (ViT paper, section 3.1)."""

from pathlib import Path

from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.containers.npz import write_npz
from vitkit.checkpoints.formats import Description, Format, RawCheckpoint
from vitkit.checkpoints.formats._unsupported import implied_mismatch
from vitkit.checkpoints.formats.google import vit
from vitkit.checkpoints.formats.google._names import group_norm, resnet_convolution, squeeze_norms
from vitkit.checkpoints.infer.bit import BACKBONE, VIT_FIELDS, infer_hybrid
from vitkit.checkpoints.table import Table
from vitkit.models import hybrid
from vitkit.models.vit import Config

TITLE = "Google's .npz of a hybrid"
IMPLIED = {"weight_eps": 1e-5, "weight_eps_on": "std", "group_norm_eps": 1e-6, "num_groups": 32}
LEAVES = ("scale", "bias")
UNIT, THEIR_UNIT = f"{BACKBONE}.stages.{{i}}.blocks.{{j}}", "block{i+1}/unit{j+1}"
TABLE = Table(
    (
        *vit.TABLE.rules,
        # The root is the stem before the stages, or the complete ResNet if there are no stages.
        *(resnet_convolution(f"{BACKBONE}{stem}.conv", "conv_root") for stem in (".stem", "")),
        *(rule for stem in (".stem", "") for rule in group_norm(f"{BACKBONE}{stem}.norm", "gn_root", LEAVES)),
        *(resnet_convolution(f"{UNIT}.conv{part}", f"{THEIR_UNIT}/conv{part}") for part in (1, 2, 3)),
        *(rule for part in (1, 2, 3) for rule in group_norm(f"{UNIT}.norm{part}", f"{THEIR_UNIT}/gn{part}", LEAVES)),
        resnet_convolution(f"{UNIT}.downsample.conv", f"{THEIR_UNIT}/conv_proj"),
        *group_norm(f"{UNIT}.downsample.norm", f"{THEIR_UNIT}/gn_proj", LEAVES),
    )
)


def describe(raw: RawCheckpoint) -> Description:
    """Infers the config like that of a plain ViT, with the norm epsilons of the original implementation."""
    notes: list[str] = []
    config = infer_hybrid(
        TABLE.shapes(raw.tensors),
        defaults=vit.DEFAULTS | IMPLIED,
        file_config={"num_heads": vit.num_heads(raw, vit.ATTENTION)},
        overrides=raw.overrides,
        image_size=raw.image_size,
        notes=notes,
    )
    return Description(config=config, processor=preprocessing.google(config), notes=tuple(notes))


def unsupported_reason(config: hybrid.Config) -> str | None:
    """Returns an error message if the config differs from the original implementation, or None."""
    plain = Config(**{name: getattr(config, name) for name in VIT_FIELDS})
    return vit.unsupported_reason(plain) or implied_mismatch(config, TITLE, IMPLIED)


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Writes an `.npz` archive with the tensor names of the published checkpoints, which predate Flax Linen."""
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
    arrange=lambda tensors: squeeze_norms(tensors, r"(^|/)gn(\d|_root|_proj)/(scale|bias)$"),
    describe=describe,
    unsupported_reason=unsupported_reason,
    write=write,
)
