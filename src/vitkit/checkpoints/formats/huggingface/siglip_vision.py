"""Image towers of transformers' SigLIP: `SiglipVisionModel`, and the image tower of `SiglipModel`."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.formats import Format
from vitkit.checkpoints.formats._unsupported import unsupported_field
from vitkit.checkpoints.formats.huggingface._towers import ALIASES, IGNORED, RULES, Tower
from vitkit.checkpoints.table import Rule, Table
from vitkit.checkpoints.tensors import Tensors, split_rows
from vitkit.data.processor import Processor
from vitkit.models.vit import Config

HEAD = "head.attention"
TABLE = Table(
    (
        *RULES,
        Rule("attn_pool.latent", ("head.probe",)),
        Rule("attn_pool.q.{leaf}", (f"{HEAD}.q.{{leaf}}",)),
        Rule("attn_pool.kv.{leaf}", (f"{HEAD}.kv.{{leaf}}",)),
        Rule("attn_pool.proj.{leaf}", (f"{HEAD}.out_proj.{{leaf}}",)),
        Rule("attn_pool.norm.{leaf}", ("head.layernorm.{leaf}",)),
        Rule("attn_pool.mlp.fc1.{leaf}", ("head.mlp.fc1.{leaf}",)),
        Rule("attn_pool.mlp.fc2.{leaf}", ("head.mlp.fc2.{leaf}",)),
    )
)
TOWER = Tower(
    title="SigLIP",
    model_type="siglip_vision_model",
    full_type="siglip",
    table=TABLE,
    fields={"class_token": False, "position_tokens": "patches"},
    implied={"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "num_attention_heads": 12},
    preprocess=lambda config: Processor.squash(config.image_size, interpolation="bicubic"),
)


def arrange(tensors: Tensors) -> Tensors:
    """Splits the fused projection of the pooling attention into query and key-value projections."""
    return split_rows(tensors, rf"{HEAD}\.in_proj_(weight|bias)", {f"{HEAD}.q.": (0, 1), f"{HEAD}.kv.": (1, 3)}, 3)


def fused(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors with the projections of the pooling attention fused, as torch stores them."""
    result = {name: tensor for name, tensor in tensors.items() if not name.startswith((f"{HEAD}.q.", f"{HEAD}.kv."))}
    for leaf in ("weight", "bias"):
        if f"{HEAD}.q.{leaf}" in tensors:
            result[f"{HEAD}.in_proj_{leaf}"] = torch.cat([tensors[f"{HEAD}.{part}.{leaf}"] for part in ("q", "kv")])
    return result


def unsupported_reason(config: Config) -> str | None:
    """Returns an error message if transformers' SiglipVisionModel cannot represent the config, otherwise None."""
    if config.num_classes:
        return "transformers' SiglipVisionModel has no head, but this model has one; use to='vitkit'"
    fixed = {"class_token": False, "pool": "map", "position_tokens": config.position_tokens}
    return unsupported_field(config, "transformers' SiglipVisionModel", fixed=fixed, free=("activation", "norm_eps"))


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes a folder for `SiglipVisionModel`."""
    saved = TABLE.saved(checkpoint.model.state_dict(), checkpoint.model.config.num_heads)
    TOWER.write(checkpoint, folder, fused(saved), "SiglipVisionModel")


FORMAT = Format(
    name="siglip_huggingface",
    targets=("siglip_huggingface", "huggingface"),
    family="vit",
    table=TABLE,
    anchors=(r"(?:vision_model\.)?head\.probe", r"(?:vision_model\.)?embeddings\.patch_embedding\.weight"),
    aliases=ALIASES,
    ignored=IGNORED,
    accepts=TOWER.accepts,
    arrange=arrange,
    describe=TOWER.describe,
    unsupported_reason=unsupported_reason,
    write=write,
)
