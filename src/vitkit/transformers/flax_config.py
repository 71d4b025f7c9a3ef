"""Converts between the attributes of `ViTConfig` and the config of `vitkit.jax.ViT`.

The Flax classes accept any object with the attributes of a ViTConfig (`hidden_size`, `num_hidden_layers`, ...).
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from vitkit import config as configs
from vitkit.config import JsonDict
from vitkit.layers.activations import CORE, names_in
from vitkit.models.vit import Config
from vitkit.task import SINGLE_LABEL, Task
from vitkit.transformers.configuration import pair

ACTIVATIONS = names_in("transformers")

# A ViTConfig, or any other object with its attributes.
Attributes = Any


def model_config(attributes: Attributes, *, classifier: bool, pooling: bool = True) -> Config:
    """Converts the attributes to a vitkit config for a classifier, or for an encoder with a pooler if `pooling`.

    The pooler (linear layer and tanh on the class token) is called pre-logits in Google's tree. Raises ValueError for
    an unsupported activation.
    """
    if attributes.hidden_act not in ACTIVATIONS:
        raise ValueError(f"unknown hidden_act '{attributes.hidden_act}'; expected one of {', '.join(ACTIVATIONS)}")
    pooling = pooling and not classifier
    if pooling and getattr(attributes, "pooler_act", "tanh") != "tanh":
        raise ValueError(f"pooler_act is '{attributes.pooler_act}'; the Flax model supports only 'tanh'")
    pooler = getattr(attributes, "pooler_output_size", None) or attributes.hidden_size
    return Config(
        image_size=pair(attributes.image_size),
        patch_size=pair(attributes.patch_size),
        channels=attributes.num_channels,
        width=attributes.hidden_size,
        depth=attributes.num_hidden_layers,
        num_heads=attributes.num_attention_heads,
        mlp_width=attributes.intermediate_size,
        num_classes=attributes.num_labels if classifier else 0,
        task=task_of(attributes) if classifier else SINGLE_LABEL,
        pre_logits=pooler if pooling else 0,
        position_resize="bicubic",
        activation=ACTIVATIONS[attributes.hidden_act],  # type: ignore[arg-type]
        norm_eps=attributes.layer_norm_eps,
        qkv_bias=attributes.qkv_bias,
        dropout=attributes.hidden_dropout_prob,
        attention_dropout=attributes.attention_probs_dropout_prob,
    )


def task_of(attributes: Attributes) -> Task:
    """Returns the task for the problem type in the attributes. Raises ValueError if the type is unknown."""
    stored = getattr(attributes, "problem_type", None)
    return SINGLE_LABEL if stored is None else configs.from_dict(Task, {"problem_type": stored})


def attributes_of(config: Config, labels: Mapping[int, str] | None = None) -> JsonDict:
    """Converts a vitkit config to Hugging Face's attributes, including the problem type.

    Raises ValueError for unsupported options.
    """
    supported = Config(
        **{
            name: getattr(config, name)
            for name in ("image_size", "patch_size", "channels", "width", "depth", "num_heads", "mlp_width")
        },
        num_classes=config.num_classes,
        task=config.task,
        pre_logits=config.pre_logits,
        position_resize=config.position_resize,
        activation=config.activation,
        norm_eps=config.norm_eps,
        qkv_bias=config.qkv_bias,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        # Stochastic depth has no parameters and does not change inference.
        stochastic_depth=config.stochastic_depth,
    )
    unsupported = [each.name for each in fields(config) if getattr(config, each.name) != getattr(supported, each.name)]
    if unsupported:
        settings = ", ".join(f"{name}={getattr(config, name)!r}" for name in unsupported)
        raise ValueError(f"the Hugging Face ViT does not support {settings}; use vitkit.jax.ViT")
    count = config.num_classes
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_width,
        "hidden_act": CORE[config.activation].transformers[0],
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "layer_norm_eps": config.norm_eps,
        "image_size": _to_number(config.image_size),
        "patch_size": _to_number(config.patch_size),
        "num_channels": config.channels,
        "qkv_bias": config.qkv_bias,
        **(
            {}
            if config.task.problem_type == "single_label_classification"
            else {"problem_type": config.task.problem_type}
        ),
        **({"pooler_output_size": config.pre_logits} if config.pre_logits else {}),
        **({"id2label": dict(labels or {index: f"LABEL_{index}" for index in range(count)})} if count else {}),
    }


def _to_number(size: tuple[int, int]) -> int | tuple[int, int]:
    return size[0] if size[0] == size[1] else size
