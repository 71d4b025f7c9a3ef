"""Reads and writes the image towers of transformers' CLIP and SigLIP: `clip_vision_model`, `siglip_vision_model`.

A file of the complete model (`clip`, `siglip`) contains the same image tower and a text tower, which is ignored.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from einops import rearrange
from torch import Tensor

from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError
from vitkit.checkpoints.containers.safetensors import write_weights
from vitkit.checkpoints.formats import Description, RawCheckpoint
from vitkit.checkpoints.formats.huggingface._config import read_config, to_config
from vitkit.checkpoints.infer.vit import infer_vit
from vitkit.checkpoints.json_files import Json, write_json
from vitkit.checkpoints.table import FUSED3, Rule, Table, Transform
from vitkit.data.processor import Processor
from vitkit.models.vit import Config

LAYER = "encoder.layers.{i}"
ROWS = Transform(lambda parts: parts[0][None], lambda ours, heads: [ours[0]])
VECTOR = Transform(lambda parts: rearrange(parts[0], "d -> 1 1 d"), lambda ours, heads: [ours.flatten()])
RULES = (
    Rule("patch_embed.proj.{leaf}", ("embeddings.patch_embedding.{leaf}",)),
    Rule("pos_embed", ("embeddings.position_embedding.weight",), ROWS),
    Rule("blocks.{i}.norm1.{leaf}", (f"{LAYER}.layer_norm1.{{leaf}}",)),
    Rule(
        "blocks.{i}.attn.qkv.{leaf}",
        tuple(f"{LAYER}.self_attn.{part}_proj.{{leaf}}" for part in ("q", "k", "v")),
        FUSED3,
    ),
    Rule("blocks.{i}.attn.proj.{leaf}", (f"{LAYER}.self_attn.out_proj.{{leaf}}",)),
    Rule("blocks.{i}.norm2.{leaf}", (f"{LAYER}.layer_norm2.{{leaf}}",)),
    Rule("blocks.{i}.mlp.fc1.{leaf}", (f"{LAYER}.mlp.fc1.{{leaf}}",)),
    Rule("blocks.{i}.mlp.fc2.{leaf}", (f"{LAYER}.mlp.fc2.{{leaf}}",)),
    Rule("norm.{leaf}", ("post_layernorm.{leaf}",)),
)
ALIASES = ((r"^vision_model\.", ""),)
IGNORED = (
    (r"text_model\..*", "the text tower"),
    (r"text_projection\.weight", "the projection of the text tower"),
    (r"logit_(scale|bias)", "scale and bias of the similarity of image and text"),
    (r"embeddings\.position_ids", "position ids, a range of integers"),
)


@dataclass(frozen=True, kw_only=True)
class Tower:
    """Settings that differ between the image towers of CLIP and SigLIP.

    `model_type` is the model type of the image tower, and `full_type` that of the complete model. `fields` are the
    config fields of every tower of this kind. `implied` are the default values of transformers' config class, for keys
    that are missing in config.json. `preprocess` creates the processor if there is no preprocessor_config.json.
    """

    title: str
    model_type: str
    full_type: str
    table: Table
    fields: Mapping[str, Any]
    implied: Mapping[str, Any]
    preprocess: Callable[[Config], Processor]

    def accepts(self, config: Json | None) -> bool:
        """Returns whether a config.json may belong to this kind of tower."""
        return config is None or config.get("model_type") in (self.model_type, self.full_type)

    def describe(self, raw: RawCheckpoint) -> Description:
        """Reads the config and processor. Without config.json, uses transformers' defaults."""
        notes = [] if raw.config else ["no config.json: using transformers' default norm_eps and activation"]
        data = raw.config or {}
        if data.get("model_type") == self.full_type:
            data = data.get("vision_config") or {}
            if not isinstance(data, Mapping):
                raise CheckpointError("config.json: vision_config is not a JSON object")
        file_config, labels = read_config({**self.implied, **data})
        named = {"dropout", "attention_dropout"} & set(data)
        file_config |= {name: data[name] for name in named}
        config = infer_vit(
            self.table.shapes(raw.tensors),
            defaults={"position_resize": "bicubic", "position_order": ("class+patches",), **self.fields},
            file_config={"position": "learned", **file_config},
            overrides=raw.overrides,
            image_size=raw.image_size,
            notes=notes,
        )
        if raw.preprocessor is None:
            notes.append(f"no preprocessor_config.json: using the preprocessing of {self.title}")
            processor = preprocessing.fitted(self.preprocess(config), config)
        else:
            settings = raw.preprocessor
            processor = preprocessing.stated(lambda: Processor.from_huggingface(settings), "preprocessor_config.json")
        return Description(
            config=config, processor=processor, labels=labels if config.num_classes else None, notes=tuple(notes)
        )

    def write(self, checkpoint: Checkpoint, folder: Path, tensors: Mapping[str, Tensor], architecture: str) -> None:
        """Writes config.json, preprocessor_config.json and model.safetensors."""
        config = checkpoint.model.config
        data = to_config(checkpoint)
        for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "encoder_stride", "qkv_bias"):
            del data[key]
        data |= {"architectures": [architecture], "model_type": self.model_type}
        data |= {"attention_dropout": config.attention_dropout}
        data |= {"projection_dim": config.num_classes} if config.num_classes else {}
        write_weights(tensors, folder)
        write_json(data, folder / "config.json")
        write_json(checkpoint.processor.to_huggingface(), folder / "preprocessor_config.json")
