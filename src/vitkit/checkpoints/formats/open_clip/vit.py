"""Image towers of OpenAI's CLIP (TorchScript archives or state dicts) and of open_clip's Vision Transformers.

The tensors of the image tower have the prefix `visual.`. The text tower in the same file is ignored. The files do not
store the activation. It is determined by the file name or passed by the caller.
"""

import re
from pathlib import Path

from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError
from vitkit.checkpoints.formats import Description, Format, RawCheckpoint
from vitkit.checkpoints.formats.huggingface._towers import ROWS, VECTOR
from vitkit.checkpoints.infer.vit import infer_vit, parse_overrides
from vitkit.checkpoints.table import TRANSPOSED, Rule, Table
from vitkit.data.processor import CLIP_MEAN, CLIP_STD, Processor
from vitkit.models.vit import Config

BLOCK = "visual.transformer.resblocks.{i}"
TABLE = Table(
    (
        Rule("patch_embed.proj.{leaf}", ("visual.conv1.{leaf}",)),
        Rule("cls_token", ("visual.class_embedding",), VECTOR),
        Rule("pos_embed", ("visual.positional_embedding",), ROWS),
        Rule("norm_pre.{leaf}", ("visual.ln_pre.{leaf}",)),
        Rule("blocks.{i}.norm1.{leaf}", (f"{BLOCK}.ln_1.{{leaf}}",)),
        Rule("blocks.{i}.attn.qkv.{leaf}", (f"{BLOCK}.attn.in_proj_{{leaf}}",)),
        Rule("blocks.{i}.attn.proj.{leaf}", (f"{BLOCK}.attn.out_proj.{{leaf}}",)),
        Rule("blocks.{i}.ls1.gamma", (f"{BLOCK}.ls_1.gamma",)),
        Rule("blocks.{i}.norm2.{leaf}", (f"{BLOCK}.ln_2.{{leaf}}",)),
        Rule("blocks.{i}.mlp.fc1.{leaf}", (f"{BLOCK}.mlp.c_fc.{{leaf}}",)),
        Rule("blocks.{i}.mlp.fc2.{leaf}", (f"{BLOCK}.mlp.c_proj.{{leaf}}",)),
        Rule("blocks.{i}.ls2.gamma", (f"{BLOCK}.ls_2.gamma",)),
        Rule("norm.{leaf}", ("visual.ln_post.{leaf}",)),
        Rule("head.weight", ("visual.proj",), TRANSPOSED),
    )
)
DEFAULTS = {
    "norm_eps": 1e-5,
    "head_bias": False,
    "position_order": ("class+patches",),
    "position_resize": "bicubic_antialias",  # as open_clip resizes position embeddings
}
TITLE = "open_clip's state dict"
# File names of OpenAI, and of models that open_clip trained with QuickGELU.
QUICK_GELU = re.compile(r"^vit-[bl]-(16|32|14|14-336px)\.pt$|quickgelu|openai|metaclip|dfn")


def activation(raw: RawCheckpoint) -> str:
    """Returns the activation of the MLPs.

    Raises CheckpointError if neither the caller nor the file name determines it.
    """
    if "activation" in raw.overrides:
        return str(parse_overrides(Config, {"activation": raw.overrides["activation"]})["activation"])
    if QUICK_GELU.search(raw.file_name.lower()):
        return "quick_gelu"
    raise CheckpointError(
        "the file does not say whether the activation is GELU or QuickGELU: models of OpenAI, MetaCLIP and DFN use "
        "quick_gelu, most others gelu; set config={'activation': 'gelu'} (--set activation=gelu)"
    )


def describe(raw: RawCheckpoint) -> Description:
    """Infers the config from the tensors, and the activation from the file name."""
    notes: list[str] = []
    config = infer_vit(
        TABLE.shapes(raw.tensors),
        defaults={**DEFAULTS, "activation": activation(raw)},
        file_config={"position": "learned"},
        overrides=raw.overrides,
        image_size=raw.image_size,
        notes=notes,
    )
    notes.append("no preprocessing in the file: using CLIP's")
    processor = Processor.crop(config.image_size, 1.0, mean=CLIP_MEAN, std=CLIP_STD)
    return Description(config=config, processor=preprocessing.fitted(processor, config), notes=tuple(notes))


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Always raises CheckpointError, because files of OpenAI and open_clip also contain a text tower."""
    raise CheckpointError(f"{TITLE} is only read; use to='huggingface'")


FORMAT = Format(
    name="open_clip",
    targets=(),
    family="vit",
    table=TABLE,
    anchors=(r"visual\.class_embedding", r"visual\.conv1\.weight"),
    ignored=(
        (r"(transformer|token_embedding|ln_final|text)\..*", "the text tower"),
        (r"positional_embedding|text_projection", "the text tower"),
        (r"logit_(scale|bias)", "scale and bias of the similarity of image and text"),
        (r"attn_mask", "the mask of the text tower"),
        (r"input_resolution|context_length|vocab_size", "sizes of images and texts"),
    ),
    suffix=".pt",
    accepts=lambda config: config is None,
    describe=describe,
    unsupported_reason=lambda config: f"{TITLE} is only read; use to='huggingface'",
    write=write,
)
