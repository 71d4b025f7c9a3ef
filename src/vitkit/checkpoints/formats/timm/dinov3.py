"""DINOv3's official files, and timm's folders, which split the gated MLP and the biases in other ways."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.formats import Description, Format, Found
from vitkit.checkpoints.formats._unsupported import lacking, meaning
from vitkit.checkpoints.formats.huggingface import dinov3 as huggingface
from vitkit.checkpoints.formats.timm import _folder as library
from vitkit.checkpoints.formats.timm import vit
from vitkit.checkpoints.infer.vit_variants import infer_like
from vitkit.checkpoints.table import Rule, Table
from vitkit.checkpoints.tensors import Tensors, fused, thirds
from vitkit.models import dinov3

WHAT = "timm's DINOv3"
OWN = ("rotary_rescale", "layer_scale")
TABLE = Table(
    tuple(
        Rule(name, (theirs or name,))
        for name, theirs in {
            **dict.fromkeys(("patch_embed.proj.{leaf}", "cls_token", "reg_token", "norm.{leaf}", "head.{leaf}")),
            **dict.fromkeys(f"blocks.{{i}}.{part}.{{leaf}}" for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")),
            **dict.fromkeys(f"blocks.{{i}}.attn.{part}" for part in ("qkv.weight", "proj.{leaf}", "q_bias", "v_bias")),
            "blocks.{i}.ls1.gamma": "blocks.{i}.gamma_1",
            "blocks.{i}.ls2.gamma": "blocks.{i}.gamma_2",
        }.items()
    )
)


def arrange(tensors: Tensors) -> Tensors:
    """Gate and value as one; of the three biases in one those of query and value, as the mask leaves no other."""
    for gate, value in (("fc1_g", "fc1_x"), ("w1", "w2")):
        tensors = fused(tensors, rf"(.*\.mlp)\.{gate}\.(weight|bias)", rf"\1.{value}.\2", r"\1.fc1.\2")
    return thirds(tensors, r"(blocks\.\d+\.attn)\.qkv\.bias", r"\1.q_bias", r"\1.v_bias")


def accepts(config: Mapping[str, Any] | None) -> bool:
    """No config.json, or timm's of an architecture of that name."""
    return vit.FORMAT.accepts(config) and (config is None or "dinov3" in str(config.get("architecture")))


def describe(found: Found) -> Description:
    """By config.json where there is one, else as the official code builds it."""
    notes: list[str] = []
    stated, labels = library.stated_config(found, OWN)
    shapes = TABLE.shapes(found.tensors)
    own = huggingface.own_fields(shapes)
    arguments = (found.config or {}).get("model_args")
    if isinstance(arguments, Mapping) and isinstance(base := arguments.get("rope_temperature"), int | float):
        own["rotary_base"] = float(base)
    if "layer_scale" in stated:
        own["layer_scale"] = stated.pop("layer_scale")
    dialect = huggingface.DIALECT | huggingface.heads(shapes)
    config = infer_like(dinov3.Config, shapes, found, dialect=dialect, stated=stated, own=own, notes=notes)
    processor = library.processor(found, config, 1.0, notes)
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def obstacle(config: Any) -> str | None:
    """What timm's class has no argument for."""
    if config.pool == "token+gap":
        return f"{WHAT} has no pool 'token+gap'; to='vitkit' can say it"
    if config.mlp == "swiglu" and config.mlp_width % 8:
        return f"{WHAT} has no SwiGLU of width {config.mlp_width}, only multiples of 8; to='vitkit' can say it"
    free = ("activation", "norm_eps", "num_registers", "layer_scale", "mlp", "qkv_bias", "pool")
    free += ("rotary_base", "rotary_rescale")
    return lacking(config, WHAT, fixed={}, free=free) or meaning(config, WHAT, {"norm_eps": 1e-5, "activation": "gelu"})


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """A folder that timm opens."""
    config = checkpoint.model.config
    tensors = TABLE.saved(checkpoint.model.state_dict(), config.num_heads)
    gated = config.mlp == "swiglu"
    for name in [name for name in tensors if gated and ".mlp.fc1." in name]:
        gate, value = tensors.pop(name).chunk(2)
        tensors |= {name.replace("fc1", "fc1_g"): gate, name.replace("fc1", "fc1_x"): value}
    arguments = {
        "qkv_bias": config.qkv_bias,
        "swiglu_mlp": gated,
        # Without it timm keeps gate and value in one matrix.
        "swiglu_align_to": 8 if gated else 0,
        "init_values": config.layer_scale,
        "num_reg_tokens": config.num_registers,
        "rope_temperature": config.rotary_base,
    }
    library.write_folder(checkpoint, folder, tensors, "vit_small_patch16_dinov3", arguments, OWN)


FORMAT = Format(
    name="dinov3_timm",
    targets=("timm",),
    family="dinov3",
    table=TABLE,
    anchors=(*vit.FORMAT.anchors, r"(.*\.)?(reg_token|storage_tokens)"),
    aliases=(
        (r"^(blocks\.\d+)\.ls([12])\.gamma$", r"\1.gamma_\2"),
        (r"^storage_tokens$", "reg_token"),
        (r"^(blocks\.\d+\.mlp)\.w3\.", r"\1.fc2."),
    ),
    ignored=(
        (r"mask_token", "the mask token of pre-training"),
        (r"rope_embed\.periods", "the periods of the rotations, which are computed"),
        (r"blocks\.\d+\.attn\.qkv\.bias_mask", "the mask of the key's bias"),
        (r"local_cls_norm\.(weight|bias)", "the norm of local crops in training"),
    ),
    accepts=accepts,
    arrange=arrange,
    describe=describe,
    obstacle=obstacle,
    write=write,
)
