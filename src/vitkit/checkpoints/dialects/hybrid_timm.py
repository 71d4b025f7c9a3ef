"""timm's hybrids, `vit_*_r26_s32` and their like: its ViT's names, which are ours, and its ResNet's."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitkit.checkpoints import preprocessing, timm_config
from vitkit.checkpoints.dialects import Description, Format, Found, timm
from vitkit.checkpoints.expressible import meaning
from vitkit.checkpoints.folder import write_json, write_weights
from vitkit.checkpoints.inference_resnet import BACKBONE, VIT_FIELDS, infer_hybrid
from vitkit.checkpoints.table import Rule, Table
from vitkit.checkpoints.timm_processor import stated_processor
from vitkit.models import vit

if TYPE_CHECKING:
    from vitkit.checkpoints import Checkpoint

WHAT = "timm's hybrid"
MEANS = {"weight_eps": 1e-8, "weight_eps_on": "variance", "group_norm_eps": 1e-5, "num_groups": 32, "stem_width": 64}
TABLE = Table((*timm.TABLE.rules, Rule(f"{BACKBONE}.{{name}}", (f"{BACKBONE}.{{name}}",))))
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
    stated, labels = ({}, None) if found.config is None else timm_config.read_config(found.config)
    config = infer_hybrid(
        TABLE.shapes(found.tensors),
        dialect=timm.DIALECT | MEANS,
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
    plain = vit.Config(**{name: getattr(config, name) for name in VIT_FIELDS})
    return timm.obstacle(plain) or meaning(config, WHAT, MEANS)


def write(checkpoint: "Checkpoint", folder: Path) -> None:
    """model.safetensors and a config.json that `timm.create_model("local-dir:...", pretrained=True)` opens."""
    config = checkpoint.model.config
    stated = timm_config.to_config(checkpoint)
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
    anchors=(rf"{BACKBONE.replace('.', '[.]')}[.](stem[.])?conv[.]weight", *timm.FORMAT.anchors),
    accepts=timm.FORMAT.accepts,
    describe=describe,
    obstacle=obstacle,
    write=write,
)
