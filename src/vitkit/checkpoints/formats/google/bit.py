"""Big Transfer's `.npz` files (google-research/big_transfer): ResNets with pre-activation."""

from pathlib import Path
from typing import Any

from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.containers.npz import write_npz
from vitkit.checkpoints.formats import Description, Format, RawCheckpoint
from vitkit.checkpoints.formats._unsupported import implied_mismatch
from vitkit.checkpoints.formats.google._names import group_norm, resnet_convolution, squeeze_norms
from vitkit.checkpoints.infer.bit import infer_bit
from vitkit.checkpoints.table import Rule, Table, Transform
from vitkit.models import bit

IMPLIED = {
    "weight_eps": 1e-10,
    "weight_eps_on": "variance",
    "norm_eps": 1e-5,
    "num_groups": 32,
    "order": "pre",
    "padding": "symmetric",
}
LEAVES = ("gamma", "beta")
UNIT, THEIR_UNIT = "stages.{i}.blocks.{j}", "resnet/block{i+1}/unit{j+1:02}"
PARTS = tuple(enumerate("abc", 1))
# The head is stored as a 1x1 convolution.
HEAD = Transform(lambda parts: parts[0][0, 0].t(), lambda ours, heads: [ours.t()[None, None]])
TABLE = Table(
    (
        resnet_convolution("stem.conv", "resnet/root_block/standardized_conv2d"),
        *(
            resnet_convolution(f"{UNIT}.conv{part}", f"{THEIR_UNIT}/{letter}/standardized_conv2d")
            for part, letter in PARTS
        ),
        # Each norm precedes the convolution with its letter.
        *(
            rule
            for part, letter in PARTS
            for rule in group_norm(f"{UNIT}.norm{part}", f"{THEIR_UNIT}/{letter}/group_norm", LEAVES)
        ),
        resnet_convolution(f"{UNIT}.downsample.conv", f"{THEIR_UNIT}/a/proj/standardized_conv2d"),
        *group_norm("norm", "resnet/group_norm", LEAVES),
        Rule("head.weight", ("resnet/head/conv2d/kernel",), HEAD),
        Rule("head.bias", ("resnet/head/conv2d/bias",)),
    )
)


def describe(raw: RawCheckpoint) -> Description:
    """Infers depths and widths from the tensors. The processor ignores the aspect ratio and scales pixels to -1..1."""
    notes: list[str] = []
    config = infer_bit(
        TABLE.shapes(raw.tensors),
        fields=IMPLIED,
        overrides=raw.overrides,
        image_size=raw.image_size,
        notes=notes,
    )
    any_config: Any = config
    return Description(config=config, processor=preprocessing.google(any_config), notes=tuple(notes))


def unsupported_reason(config: bit.Config) -> str | None:
    """Returns an error message if layer order, padding or norm epsilons differ from Big Transfer, or None."""
    return implied_mismatch(config, "Big Transfer's .npz", IMPLIED)


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Writes an `.npz` archive with the tensor names of the published checkpoints."""
    write_npz(TABLE.saved(checkpoint.model.state_dict(), 1), path)


FORMAT = Format(
    name="bit_npz",
    targets=("npz",),
    family="bit",
    table=TABLE,
    anchors=(r"resnet/root_block/standardized_conv2d(_\d+)?/kernel",),
    # Files of fine-tuned models number their layers: standardized_conv2d_17.
    aliases=((r"/(standardized_conv2d|group_norm|conv2d)_\d+/", r"/\1/"),),
    suffix=".npz",
    accepts=lambda config: True,
    arrange=lambda tensors: squeeze_norms(tensors, r"group_norm/(gamma|beta)$"),
    describe=describe,
    unsupported_reason=unsupported_reason,
    write=write,
)
