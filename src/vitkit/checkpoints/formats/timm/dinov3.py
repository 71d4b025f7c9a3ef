"""Official files of DINOv3, and timm folders. Both store SwiGLU and the qkv bias differently from vitkit."""

from collections.abc import Mapping
from pathlib import Path

from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.formats import Description, Format, RawCheckpoint
from vitkit.checkpoints.formats._unsupported import implied_mismatch, unsupported_field
from vitkit.checkpoints.formats.huggingface import dinov3 as huggingface
from vitkit.checkpoints.formats.timm import _folder, vit
from vitkit.checkpoints.infer.vit_variants import infer_variant
from vitkit.checkpoints.json_files import Json
from vitkit.checkpoints.table import Rule, Table
from vitkit.checkpoints.tensors import Tensors, fuse_pairs, split_qkv_bias
from vitkit.models import dinov3

TITLE = "timm's DINOv3"
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
    """Concatenates the gate and value weights of SwiGLU, and removes the masked (zero) key bias from the qkv bias."""
    for gate, value in (("fc1_g", "fc1_x"), ("w1", "w2")):
        tensors = fuse_pairs(tensors, rf"(.*\.mlp)\.{gate}\.(weight|bias)", rf"\1.{value}.\2", r"\1.fc1.\2")
    return split_qkv_bias(tensors, r"(blocks\.\d+\.attn)\.qkv\.bias", r"\1.q_bias", r"\1.v_bias")


def accepts(config: Json | None) -> bool:
    """Returns whether config.json is missing, or was written by timm and names a DINOv3 architecture."""
    return vit.FORMAT.accepts(config) and (config is None or "dinov3" in str(config.get("architecture")))


def describe(raw: RawCheckpoint) -> Description:
    """Reads the config, processor and labels. Without config.json, uses the settings of the official code."""
    notes: list[str] = []
    file_config, labels = _folder.read_file_config(raw, OWN)
    shapes = TABLE.shapes(raw.tensors)
    extra = huggingface.family_fields(shapes)
    arguments = (raw.config or {}).get("model_args")
    if isinstance(arguments, Mapping) and isinstance(base := arguments.get("rope_temperature"), int | float):
        extra["rotary_base"] = float(base)
    if "layer_scale" in file_config:
        extra["layer_scale"] = file_config.pop("layer_scale")
    defaults = huggingface.DEFAULTS | huggingface.heads(shapes)
    config = infer_variant(
        dinov3.Config, shapes, raw, defaults=defaults, file_config=file_config, extra=extra, notes=notes
    )
    processor = _folder.processor(raw, config, 1.0, notes)
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def unsupported_reason(config: dinov3.Config) -> str | None:
    """Returns an error message if timm's DINOv3 cannot represent the config, otherwise None."""
    if config.pool == "token+gap":
        return f"{TITLE} does not support pool='token+gap'; use to='vitkit'"
    if config.mlp == "swiglu" and config.mlp_width % 8:
        return f"{TITLE} needs a SwiGLU width that is a multiple of 8, not {config.mlp_width}; use to='vitkit'"
    free = ("activation", "norm_eps", "num_registers", "layer_scale", "mlp", "qkv_bias", "pool")
    free += ("rotary_base", "rotary_rescale")
    return unsupported_field(config, TITLE, fixed={}, free=free) or implied_mismatch(
        config, TITLE, {"norm_eps": 1e-5, "activation": "gelu"}
    )


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes a folder that timm can load."""
    config = checkpoint.model.config
    tensors = TABLE.saved(checkpoint.model.state_dict(), config.num_heads)
    gated = config.mlp == "swiglu"
    for name in [name for name in tensors if gated and ".mlp.fc1." in name]:
        gate, value = tensors.pop(name).chunk(2)
        tensors |= {name.replace("fc1", "fc1_g"): gate, name.replace("fc1", "fc1_x"): value}
    arguments = {
        "qkv_bias": config.qkv_bias,
        "swiglu_mlp": gated,
        # Without it timm stores gate and value in one matrix.
        "swiglu_align_to": 8 if gated else 0,
        "init_values": config.layer_scale,
        "num_reg_tokens": config.num_registers,
        "rope_temperature": config.rotary_base,
    }
    _folder.write_folder(checkpoint, folder, tensors, "vit_small_patch16_dinov3", arguments, OWN)


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
        (r"rope_embed\.periods", "rotary periods, which vitkit computes"),
        (r"blocks\.\d+\.attn\.qkv\.bias_mask", "the mask of the key's bias"),
        (r"local_cls_norm\.(weight|bias)", "the norm of local crops in training"),
    ),
    accepts=accepts,
    arrange=arrange,
    describe=describe,
    unsupported_reason=unsupported_reason,
    write=write,
)
