"""Hugging Face's ViT attributes and our config: the adapter that the Flax classes stand on.

Any object with the attributes of a ViTConfig will do (`hidden_size`, `num_hidden_layers`, ...); `ViTAttributes` is the
one that `from_pretrained` makes where it is given none.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from vitkit.layers.activations import CORE, names_in
from vitkit.models.vit import Config

ACTIVATIONS = names_in("transformers")


@dataclass(kw_only=True)
class ViTAttributes:
    """The fields of a ViTConfig with its defaults (transformers 4 and 5); other keys are in `other`."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: int | tuple[int, int] = 224
    patch_size: int | tuple[int, int] = 16
    num_channels: int = 3
    qkv_bias: bool = True
    encoder_stride: int = 16
    pooler_output_size: int | None = None
    pooler_act: str = "tanh"
    id2label: dict[int, str] = field(default_factory=lambda: {0: "LABEL_0", 1: "LABEL_1"})
    output_attentions: bool = False
    output_hidden_states: bool = False
    use_return_dict: bool = True
    other: dict[str, Any] = field(default_factory=dict)

    @property
    def num_labels(self) -> int:
        """How many classes there are labels for."""
        return len(self.id2label)

    @property
    def label2id(self) -> dict[str, int]:
        """The class of each label."""
        return {label: index for index, label in self.id2label.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ViTAttributes":
        """The attributes in a `config.json` of any generation; `num_labels` makes labels where there are none."""
        known = {each.name for each in fields(cls)} - {"other"}
        values = {name: value for name, value in data.items() if name in known}
        other = {name: value for name, value in data.items() if name not in known | {"num_labels", "label2id"}}
        if "id2label" in values:
            values["id2label"] = {int(index): label for index, label in values["id2label"].items()}
        elif "num_labels" in data:
            values["id2label"] = {index: f"LABEL_{index}" for index in range(data["num_labels"])}
        return cls(**values, other=other)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, as transformers writes it."""
        data = {name: value for name, value in asdict(self).items() if name not in ("other", "use_return_dict")}
        labels = {"id2label": {str(index): label for index, label in self.id2label.items()}, "label2id": self.label2id}
        return {"model_type": "vit", **self.other, **data, **labels}


def model_config(attributes: Any, *, classifier: bool) -> Config:
    """The config of our model for Hugging Face's attributes, with a classifier or with a pooler.

    The pooler (dense, then tanh, of the class token) is what Google's tree calls pre-logits. ValueError for an
    activation that there is none of.
    """
    if attributes.hidden_act not in ACTIVATIONS:
        raise ValueError(f"unknown hidden_act '{attributes.hidden_act}'; there is {', '.join(ACTIVATIONS)}")
    if not classifier and getattr(attributes, "pooler_act", "tanh") != "tanh":
        raise ValueError(f"pooler_act is '{attributes.pooler_act}'; the Flax pooler has 'tanh'")
    pooler = getattr(attributes, "pooler_output_size", None) or attributes.hidden_size
    return Config(
        image_size=_pair(attributes.image_size),
        patch_size=_pair(attributes.patch_size),
        channels=attributes.num_channels,
        width=attributes.hidden_size,
        depth=attributes.num_hidden_layers,
        num_heads=attributes.num_attention_heads,
        mlp_width=attributes.intermediate_size,
        num_classes=attributes.num_labels if classifier else 0,
        pre_logits=0 if classifier else pooler,
        position_resize="bicubic",
        activation=ACTIVATIONS[attributes.hidden_act],  # type: ignore[arg-type]
        norm_eps=attributes.layer_norm_eps,
        qkv_bias=attributes.qkv_bias,
        dropout=attributes.hidden_dropout_prob,
        attention_dropout=attributes.attention_probs_dropout_prob,
    )


def attributes_of(config: Config, labels: Mapping[int, str] | None = None) -> dict[str, Any]:
    """Hugging Face's attributes of one of our configs, as a dict; ValueError where its ViT cannot say the model."""
    plain = Config(
        **{
            name: getattr(config, name)
            for name in ("image_size", "patch_size", "channels", "width", "depth", "num_heads", "mlp_width")
        },
        num_classes=config.num_classes,
        pre_logits=config.pre_logits,
        position_resize=config.position_resize,
        activation=config.activation,
        norm_eps=config.norm_eps,
        qkv_bias=config.qkv_bias,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        # It has no parameters and shows in training only.
        stochastic_depth=config.stochastic_depth,
    )
    other = [each.name for each in fields(config) if getattr(config, each.name) != getattr(plain, each.name)]
    if other:
        given = ", ".join(f"{name}={getattr(config, name)!r}" for name in other)
        raise ValueError(f"the Hugging Face ViT has no {given}: use vitkit.jax.ViT for this model")
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
        "image_size": _plain(config.image_size),
        "patch_size": _plain(config.patch_size),
        "num_channels": config.channels,
        "qkv_bias": config.qkv_bias,
        **({"pooler_output_size": config.pre_logits} if config.pre_logits else {}),
        **({"id2label": dict(labels or {index: f"LABEL_{index}" for index in range(count)})} if count else {}),
    }


def _pair(size: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _plain(size: tuple[int, int]) -> int | tuple[int, int]:
    return size[0] if size[0] == size[1] else size
