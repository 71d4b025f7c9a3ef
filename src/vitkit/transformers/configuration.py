"""`ViTConfig`: every field and default of transformers 4 and 5, by keyword or by place."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, get_type_hints

import torch

from vitkit import config as configs
from vitkit.transformers.pretrained_config import RENAMED, SHARED, UNREAD, PreTrainedConfig

# In pixels: one number for both sides, or (rows, columns).
Sizes = int | tuple[int, int]

PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")


@dataclass(init=False, eq=False, repr=False)
class ViTConfig(PreTrainedConfig):
    """The settings of a ViT as transformers names them; keys it does not know are kept as attributes and written.

    `encoder_stride` may be (rows, columns) too. Settings that transformers does not know: `drop_path_rate`, stochastic
    depth that grows to that rate over the layers, and `position_resize`, one of `vitkit.layers.RESIZES`.
    Raises ValueError for a value of a wrong type, TypeError for too many positional ones.
    """

    model_type: ClassVar[str] = "vit"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: Sizes = 224
    patch_size: Sizes = 16
    num_channels: int = 3
    qkv_bias: bool = True
    encoder_stride: Sizes = 16
    pooler_output_size: int | None = None
    pooler_act: str = "tanh"

    def __init__(self, *args: Any, **kwargs: Any):
        names = [field.name for field in dataclasses.fields(type(self))]
        if args[len(names) :]:
            raise TypeError(f"ViTConfig takes {len(names)} positional values ({', '.join(names)}), not {len(args)}")
        given = dict(zip(names, args, strict=False))
        if twice := sorted(set(given) & set(kwargs)):
            raise TypeError(f"ViTConfig got {', '.join(twice)} both by place and by name")
        given |= {RENAMED.get(name, name): value for name, value in kwargs.items() if name not in UNREAD}
        self.set_labels(*(given.pop(name, None) for name in ("num_labels", "id2label", "label2id")))
        defaults = {name: getattr(type(self), name) for name in names} | SHARED
        defaults |= {"_name_or_path": "", "_attn_implementation": None}
        for name, value in (defaults | given).items():
            if name not in ("id2label", "label2id"):
                setattr(self, name, self._checked(name, value))
        self.pooler_output_size = self.pooler_output_size or self.hidden_size
        self._check_problem()

    def _checked(self, name: str, value: Any) -> Any:
        if name == "dtype" and isinstance(value, str):
            return getattr(torch, value)
        hint = get_type_hints(type(self)).get(name) if name in type(self).__dataclass_fields__ else None
        return value if hint is None else configs.convert(value, hint, name)

    def _check_problem(self) -> None:
        if self.problem_type not in (None, *PROBLEMS):
            raise ValueError(f"problem_type is {self.problem_type!r}; it can be None, {', '.join(map(repr, PROBLEMS))}")
        if self.problem_type == "single_label_classification" and self.num_labels == 1:
            raise ValueError(
                '`problem_type="single_label_classification"` requires `num_labels > 1`. For binary classification '
                'use `num_labels=2`, or use `problem_type="regression"` for a single-output regression head.'
            )


def pair(size: Sizes) -> tuple[int, int]:
    """(rows, columns) of a size that may be one number for both."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])
