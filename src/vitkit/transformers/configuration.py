"""`PretrainedConfig`, the base class of all configs, with the JSON format of transformers, and `ViTConfig`."""

import copy
import dataclasses
import json
import logging
import os
from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, get_type_hints

import torch

from vitkit import atomic
from vitkit import config as configs
from vitkit.config import Json, JsonDict
from vitkit.task import PROBLEM_TYPES
from vitkit.text import printable
from vitkit.transformers import hub
from vitkit.transformers.config_values import parse_dtype, parse_value, to_json
from vitkit.transformers.hub import Argument

logger = logging.getLogger("vitkit.transformers")

# Old names; their values are stored under the new name.
RENAMED = {"torch_dtype": "dtype", "name_or_path": "_name_or_path", "attn_implementation": "_attn_implementation"}
# Attributes that are not saved: the source of the config and the attention implementation of this process.
NOT_SAVED = ("_name_or_path", "_attn_implementation")
# Keys of config.json that are not read.
IGNORED = ("transformers_version", "_commit_hash", "model_type")
# Limits on the values in a config.json, which may come from an untrusted source.
MAX_LABELS = 10_000_000
MAX_LAYERS = 10_000
LAYERS = ("num_hidden_layers", "decoder_num_hidden_layers", "depths")
# Defaults of the attributes that every config of transformers has; `to_diff_dict` omits values equal to them.
COMMON: dict[str, object] = {
    "architectures": None,
    "chunk_size_feed_forward": 0,
    "dtype": None,
    "id2label": {0: "LABEL_0", 1: "LABEL_1"},
    "is_encoder_decoder": False,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "output_attentions": False,
    "output_hidden_states": False,
    "problem_type": None,
    "return_dict": True,
}


class PretrainedConfig(ABC):
    """Base class of the configs: labels, output options, and reading and writing of config.json.

    A subclass is a dataclass with `init=False`; its fields are the settings of the model family with their defaults.
    Unknown keys become attributes and are saved. Raises ValueError for a value of the wrong type. Raises TypeError for
    too many positional arguments.
    """

    model_type: ClassVar[str] = ""
    # Pipelines of transformers 4 read it.
    _commit_hash: ClassVar[str | None] = None
    # Configs of parts of a model, and plans of parallelism: none. The code of transformers reads these.
    sub_configs: ClassVar[Mapping[str, type["PretrainedConfig"]]] = {}
    base_model_tp_plan: ClassVar[Mapping[str, str] | None] = None
    base_model_pp_plan: ClassVar[Mapping[str, str] | None] = None
    # Of models for text.
    tie_word_embeddings: ClassVar[bool] = False
    # Whether the class has required arguments.
    has_no_defaults_at_init: ClassVar[bool] = False
    # Aliases of attributes, for subclasses: {"embed_dim": "hidden_size"}.
    attribute_map: ClassVar[Mapping[str, str]] = {}

    architectures: list[str] | None
    dtype: torch.dtype | None
    id2label: dict[int, str]
    label2id: dict[str, int]
    output_attentions: bool | int | Sequence[int] | None
    output_hidden_states: bool | int | Sequence[int] | None
    problem_type: str | None
    return_dict: bool
    pruned_heads: dict[int, list[int]] | dict[str, list[int]] | None
    _attn_implementation: str | None
    _name_or_path: str

    def __init__(self, *args: Argument, **kwargs: Argument):
        names = self._settings()
        if args[len(names) :]:
            raise TypeError(
                f"{type(self).__name__} takes {len(names)} positional arguments ({', '.join(names)}), got {len(args)}"
            )
        given = dict(zip(names, args, strict=False))
        kwargs = {self.attribute_map.get(name, name): value for name, value in kwargs.items()}
        if twice := sorted(set(given) & set(kwargs)):
            raise TypeError(f"{type(self).__name__} got {', '.join(twice)} both as positional and as keyword argument")
        given |= {RENAMED.get(name, name): value for name, value in kwargs.items() if name not in IGNORED}
        self.set_labels(*(given.pop(name, None) for name in ("num_labels", "id2label", "label2id")))
        defaults = {name: getattr(type(self), name) for name in names} | COMMON
        defaults |= {"_name_or_path": "", "_attn_implementation": None}
        for name, value in (defaults | given).items():
            if name not in ("id2label", "label2id"):
                self._check_name(name)
                setattr(self, name, self._convert(name, value))
        self._check_layers()
        if getattr(self, "torchscript", False):
            # The models of transformers 4 return tuples for TorchScript.
            self.return_dict = False
        self._check_problem_type()

    @classmethod
    def _settings(cls) -> list[str]:
        """Returns the names of the settings of the model family, in the order of positional arguments."""
        return [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Self:
        """Returns the config itself, because image models have no text model."""
        return self

    def _convert(self, name: str, value: Argument) -> Argument:
        if name == "dtype" and isinstance(value, str):
            return None if value == "auto" else parse_dtype(value)
        hint = get_type_hints(type(self)).get(name) if name in self._settings() else None
        return value if hint is None else configs.convert(value, hint, name)

    @classmethod
    def _check_name(cls, name: str) -> None:
        """Raises ValueError for an attribute that would replace a method, or that cannot be set."""
        own = getattr(cls, name, None)
        if callable(own) or (isinstance(own, property) and own.fset is None):
            raise ValueError(f"'{name}' cannot be set: it is a method of {cls.__name__}; remove it")

    def _check_layers(self) -> None:
        """Raises ValueError for more layers than memory can hold."""
        for name in set(LAYERS) & set(self._settings()):
            value: Any = getattr(self, name)
            if (count := sum(value) if isinstance(value, list | tuple) else value) > MAX_LAYERS:
                raise ValueError(f"{name} has {count:,} layers; the limit is {MAX_LAYERS:,}")

    def _check_problem_type(self) -> None:
        if self.problem_type not in (None, *PROBLEM_TYPES):
            raise ValueError(
                f"problem_type is {self.problem_type!r}; expected None or one of {', '.join(map(repr, PROBLEM_TYPES))}"
            )
        if self.problem_type == "single_label_classification" and self.num_labels == 1:
            raise ValueError(
                '`problem_type="single_label_classification"` requires `num_labels > 1`. For binary classification '
                'use `num_labels=2`, or use `problem_type="regression"` for a single-output regression head.'
            )

    def __getattr__(self, name: str) -> Any:
        """Returns the attribute with this alias in `attribute_map`. Raises AttributeError for other names."""
        if name in type(self).attribute_map:
            return getattr(self, type(self).attribute_map[name])
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def __setattr__(self, name: str, value: Any) -> None:
        """Converts the keys of `id2label` to integers, because JSON stores them as strings."""
        name = self.attribute_map.get(name, name)
        if name == "id2label" and isinstance(value, Mapping):
            value = {int(index): label for index, label in value.items()}
        super().__setattr__(name, value)

    @property
    def num_labels(self) -> int:
        """The number of classes. Changing the number resets the labels to LABEL_0, LABEL_1, ..."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, number: int) -> None:
        """Sets the number of classes and replaces the labels if the number changes."""
        if not isinstance(number, int) or not 0 <= number <= MAX_LABELS:
            raise ValueError(f"num_labels is {number!r}; expected an integer from 0 to {MAX_LABELS:,}")
        if getattr(self, "id2label", None) is None or number != self.num_labels:
            self.id2label = {index: f"LABEL_{index}" for index in range(number)}
            self.label2id = {label: index for index, label in self.id2label.items()}

    def set_labels(
        self, number: int | None, id2label: Mapping[int | str, str] | None, label2id: Mapping[str, int | str] | None
    ) -> None:
        """Sets the labels. If `number` contradicts `id2label`, the labels are LABEL_0, LABEL_1, ..., with a warning."""
        if id2label is None:
            self.num_labels = 2 if number is None else number
            return
        for name, value in (("id2label", id2label), ("label2id", label2id or {})):
            if not isinstance(value, Mapping):
                raise ValueError(f"{name} is a {type(value).__name__}; expected a dict")
        if number is not None and number != len(id2label):
            logger.warning(
                f"You passed `num_labels={number}` which is incompatible to the `id2label` map of length "
                f"`{len(id2label)}`."
            )
            self.num_labels = number
            return
        self.id2label = {int(index): label for index, label in id2label.items()}
        # Values of `label2id` that are strings are not converted, as in transformers.
        self.label2id = dict(label2id or {label: index for index, label in self.id2label.items()})  # type: ignore[assignment]

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """Former name of the attribute `dtype`."""
        return self.dtype

    @torch_dtype.setter
    def torch_dtype(self, value: torch.dtype | None) -> None:
        """Sets `dtype`. `torch_dtype` is the former name of `dtype`."""
        self.dtype = value

    @property
    def use_return_dict(self) -> bool:
        """Former name of the attribute `return_dict`."""
        return self.return_dict

    @property
    def name_or_path(self) -> str:
        """The path or Hub id that the config was loaded from."""
        return self._name_or_path

    @name_or_path.setter
    def name_or_path(self, value: object) -> None:
        """Sets the path or Hub id, converted to a string."""
        self._name_or_path = str(value)

    def update_from_string(self, update_str: str) -> None:
        """Sets attributes from a string such as "hidden_size=32,hidden_act=relu,qkv_bias=false".

        The text is converted to the type of the present value. Raises ValueError for an unknown attribute and for text
        of the wrong type.
        """
        for item in update_str.split(","):
            name, _, text = item.partition("=")
            if not hasattr(self, name):
                raise ValueError(f"key {name} isn't in the original config dict")
            setattr(self, name, parse_value(name, text, getattr(self, name)))

    def update(self, values: Mapping[str, object]) -> None:
        """Sets an attribute for each key of a dict."""
        for name, value in values.items():
            setattr(self, name, value)

    def to_dict(self) -> JsonDict:
        """Returns all settings as a dict of JSON types."""
        saved = {name: value for name, value in self.__dict__.items() if name not in NOT_SAVED}
        return {name: to_json(value) for name, value in (saved | {"model_type": self.model_type}).items()}

    def to_diff_dict(self) -> JsonDict:
        """Returns `to_dict` without the attributes in `COMMON` that have their default values."""
        return {name: value for name, value in self.to_dict().items() if name not in COMMON or value != COMMON[name]}

    def to_json_string(self, use_diff: bool = True) -> str:
        """Returns `to_diff_dict` as JSON text, or `to_dict` if `use_diff` is False."""
        return json.dumps(self.to_diff_dict() if use_diff else self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Writes the text of `to_json_string` to a file."""
        atomic.write_text(Path(path), self.to_json_string(use_diff))

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **hub_options: Argument
    ) -> None:
        """Writes config.json to a folder. The folder is created if needed.

        If `push_to_hub`, uploads it with the options of `hub.push_folder`.
        """
        folder = hub.make_folder(save_directory)
        self.to_json_file(folder / "config.json")
        if push_to_hub:
            hub.push_folder(folder, ["config.json"], **hub_options)

    def push_to_hub(self, repo_id: str, **options: Argument) -> str:
        """Uploads config.json and returns the URL of the commit. `options` are the options of `hub.push`."""
        return hub.push(self.save_pretrained, repo_id, **options)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Argument) -> Any:
        """Loads the config from a folder, file or Hub id.

        `kwargs` are those of `hub.locate` and `from_dict`.
        """
        data, rest = cls.get_config_dict(pretrained_model_name_or_path, **kwargs)
        cls.check_model_type(data)
        rest.setdefault("name_or_path", str(pretrained_model_name_or_path))
        return cls.from_dict(data, **rest)

    @classmethod
    def check_model_type(cls, data: Json) -> str | None:
        """Returns the `model_type` of a config.json if it differs from that of the class, and logs a warning."""
        found = str(data.get("model_type", cls.model_type))
        if found == cls.model_type or not cls.model_type:
            return None
        logger.warning(
            f"You are using a model of type {printable(found)[:40]!r} to instantiate a model of type "
            f"'{cls.model_type}'. This works only for models that share the names of parameters, such as 'vit_mae' or "
            "'vit_msn' and 'vit'."
        )
        return found

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Argument
    ) -> tuple[JsonDict, dict[str, Argument]]:
        """Returns the content of config.json, and the `kwargs` that are not download options."""
        location, rest = hub.locate(pretrained_model_name_or_path, kwargs)
        return location.read_json("config.json"), rest

    @classmethod
    def from_dict(cls, config_dict: Json, return_unused_kwargs: bool = False, **kwargs: Argument) -> Any:
        """Creates a config from a dict. `kwargs` that name attributes of the config replace values of the dict.

        Other `kwargs` are ignored, as in transformers, or returned with the config if `return_unused_kwargs`.
        """
        named = {name: kwargs.pop(name) for name in ("name_or_path", "attn_implementation") if name in kwargs}
        data = copy.deepcopy(dict(config_dict))
        if kwargs.get("id2label") is not None:
            # The keys may be strings, as in config.json.
            data.pop("label2id", None)
            # If both are given, the labels determine the number of classes.
            kwargs.pop("num_labels", None)
            data |= {name: kwargs.pop(name) for name in ("id2label", "label2id") if kwargs.get(name) is not None}
            data.pop("num_labels", None)
        number = {"num_labels": kwargs["num_labels"]} if kwargs.get("num_labels") is not None else {}
        config = cls(**{**data, **number, **named})
        for name in [name for name in kwargs if hasattr(config, name)]:
            setattr(config, name, kwargs.pop(name))
        return (config, kwargs) if return_unused_kwargs else config

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> Self:
        """Loads the config from a JSON file."""
        return cls(**hub.read_json(Path(json_file)))

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


# Pixels: one number for both sides, or (height, width).
Sizes = int | tuple[int, int]


@dataclass(init=False, eq=False, repr=False)
class ViTConfig(PretrainedConfig):
    """Configuration of a ViT, with the attribute names of transformers.

    `encoder_stride` may also be a pair (height, width). Two settings are additions to those of transformers:
    `drop_path_rate`, the stochastic depth of the last layer (it grows linearly from 0 at the first), and
    `position_resize`, one of `vitkit.layers.RESIZES`. Raises ValueError for a value of the wrong type. Raises TypeError
    for too many positional arguments.
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

    def __init__(self, *args: Argument, **kwargs: Argument):
        super().__init__(*args, **kwargs)
        self.pooler_output_size = self.pooler_output_size or self.hidden_size


def pair(size: Sizes) -> tuple[int, int]:
    """Converts a size, an integer or a pair, to (height, width)."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


# transformers spells the name of the class in both ways.
PreTrainedConfig = PretrainedConfig
