"""Rules for the tensor names that timm and torchvision share for ResNets with batch norm."""

from vitkit.checkpoints.table import Rule, Table

# vitkit's stage 0 is their layer1.
BLOCK, THEIR_BLOCK = "stages.{i}.blocks.{j}", "layer{i+1}.{j}"
TABLE = Table(
    (
        Rule("stem.conv.weight", ("conv1.weight",)),
        Rule("stem.norm.{norm}", ("bn1.{norm}",)),
        *(Rule(f"{BLOCK}.conv{part}.weight", (f"{THEIR_BLOCK}.conv{part}.weight",)) for part in (1, 2, 3)),
        *(Rule(f"{BLOCK}.norm{part}.{{norm}}", (f"{THEIR_BLOCK}.bn{part}.{{norm}}",)) for part in (1, 2, 3)),
        Rule(f"{BLOCK}.downsample.conv.weight", (f"{THEIR_BLOCK}.downsample.0.weight",)),
        Rule(f"{BLOCK}.downsample.norm.{{norm}}", (f"{THEIR_BLOCK}.downsample.1.{{norm}}",)),
        Rule("head.{leaf}", ("fc.{leaf}",)),
    )
)
# `conv1.weight` alone is the end of other names, so that it does not identify the prefix of a wrapper.
ANCHORS = (r"layer1\.0\.conv1\.weight", r"conv1\.weight", r"bn1\.running_mean")
