"""timm's hybrids, `vit_*_r26_s32` and their like: its ViT's names, which are ours, and its ResNet's."""

from pathlib import Path
from typing import Any

from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.containers.safetensors import write_weights
from vitkit.checkpoints.formats import Description, Format, Found
from vitkit.checkpoints.formats._unsupported import meaning
from vitkit.checkpoints.formats.timm import _config, vit
from vitkit.checkpoints.formats.timm._folder import stated_processor
from vitkit.checkpoints.infer.resnet import BACKBONE, VIT_FIELDS, infer_hybrid
from vitkit.checkpoints.json_files import write_json
from vitkit.checkpoints.table import Rule, Table
from vitkit.models.vit import Config

WHAT = "timm's hybrid"
MEANS = {"weight_eps": 1e-8, "weight_eps_on": "variance", "group_norm_eps": 1e-5, "num_groups": 32, "stem_width": 64}
TABLE = Table((*vit.TABLE.rules, Rule(f"{BACKBONE}.{{name}}", (f"{BACKBONE}.{{name}}",))))
# timm's entry that builds a ResNet of these depths; its `model_args` state the rest.
ARCHITECTURES = {
    (): "vit_tiny_r_s16_p8_224",
    (2, 2, 2, 2): "vit_small_r26_s32_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}


def describe(found: Found) -> Description:
    """By config.json where there is one; else as timm builds it, preprocessed as the original."""
    notes: list[str] = []
    stated, labels = ({}, None) if found.config is None else _config.read_config(found.config)
    config = infer_hybrid(
        TABLE.shapes(found.tensors),
        dialect=vit.DIALECT | MEANS,
        stated=stated,
        overrides=found.overrides,
        image_size=found.image_size,
        notes=notes,
    )
    processor = stated_processor(found, config) or preprocessing.google(config)
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def obstacle(config: Any) -> str | None:
    """That of timm's plain ViT, ResNets it has no entry for, and epsilons other than its own."""
    if config.depths not in ARCHITECTURES:
        return f"timm has no hybrid of depths {config.depths}; to='vitkit' can say it"
    plain = Config(**{name: getattr(config, name) for name in VIT_FIELDS})
    return vit.obstacle(plain) or meaning(config, WHAT, MEANS)


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """model.safetensors and a config.json that `timm.create_model("local-dir:...", pretrained=True)` opens."""
    config = checkpoint.model.config
    stated = _config.to_config(checkpoint)
    first = f"{BACKBONE}.stem.conv" if config.depths else f"{BACKBONE}.conv"
    stated |= {
        "architecture": ARCHITECTURES[config.depths],
        "model_args": {**stated["model_args"], "patch_size": list(config.map_patch)},
        "pretrained_cfg": {**stated["pretrained_cfg"], "first_conv": first},
    }
    write_weights(TABLE.saved(checkpoint.model.state_dict(), config.num_heads), folder)
    write_json(stated, folder / "config.json")


FORMAT = Format(
    name="hybrid_timm",
    targets=("timm",),
    family="hybrid",
    table=TABLE,
    anchors=(rf"{BACKBONE.replace('.', '[.]')}[.](stem[.])?conv[.]weight", *vit.FORMAT.anchors),
    accepts=vit.FORMAT.accepts,
    describe=describe,
    obstacle=obstacle,
    write=write,
)
