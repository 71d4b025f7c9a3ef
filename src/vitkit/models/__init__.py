"""Models: one module per model family, each with `Config` (a frozen dataclass), `Model`, `PRESETS` and `TINY`.

Every config has the fields `image_size`, `channels`, `num_classes` and `task` (`vitkit.task.Task`: what the outputs
mean).
`Model(config)` returns a `Backbone`: it is the class itself, or a function that composes a model of another family (the
hybrid is a ViT with another patch embedding). `TINY` is a config that runs in milliseconds, for the contract tests. A
new family is one new file here: it is found by its file name, and every objective, evaluator, exporter, command and
contract test then works with it. Models do not depend on devices, precision, parallelism or export. Parameter names
are timm's.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from types import ModuleType
from typing import ClassVar, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit import config as configs
from vitkit import discovery
from vitkit.config import AnyConfig, Dataclass, Json, JsonDict
from vitkit.discovery import PluginError
from vitkit.layers import Blocks, Features, PatchEmbed, PositionInput, ResNetStem, TapOptions, Taps, make_taps
from vitkit.models import _names, _positions
from vitkit.models._contract import NEEDS, validate
from vitkit.references import parse
from vitkit.registry import Registry, warn_left_out


class Backbone(nn.Module, ABC):
    """Base class of models. `features` maps images to `Features`, and `logits` maps these features to logits.

    `images` are normalized float tensors (b, channels, height, width), at least one patch high and wide. `width` is the
    width of a token.
    """

    config: AnyConfig
    width: int
    head: nn.Module
    # Encoder blocks in order; empty for convolutional networks, whose stages do not count.
    blocks: nn.ModuleList
    # Names of the submodules before the blocks, and of those that map the representation to logits.
    embedding_modules: ClassVar[tuple[str, ...]] = ("patch_embed",)
    head_modules: ClassVar[tuple[str, ...]] = ("head",)

    @property
    def family(self) -> str:
        """Name of the model family, such as `vit`, which is the name of its module in `vitkit.models`."""
        return family_of(self.config)

    @property
    def is_exported(self) -> bool:
        """Whether the model is exported to another runtime.

        It then has no blocks, attention weights or gradients.
        """
        return False

    def layer_of(self, name: str) -> int:
        """Returns the layer index of a parameter, for layer-wise learning rate decay as in BEiT and MAE.

        0 for the embedding (tokens, position tables, `embedding_modules`), i + 1 for block i, and depth + 1 for what
        comes after the blocks or belongs to all of them. Raises ValueError for a name that is no parameter.
        """
        try:
            self.get_parameter(name)
        except AttributeError:
            raise ValueError(f"{type(self).__name__} has no parameter '{name}'") from None
        module, _, rest = name.partition(".")
        if module == "blocks":
            return int(rest.partition(".")[0]) + 1
        return 0 if not rest or module in self.embedding_modules else len(self.blocks) + 1

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """Returns the parameters of all heads by name. The dict is empty for a model without classes."""
        return {
            f"{head}.{name}": parameter
            for head in self.head_modules
            for name, parameter in self.get_submodule(head).named_parameters()
        }

    @property
    def num_taps(self) -> int:
        """Number of blocks whose outputs `features` can return. Stages of convolutional networks count as blocks."""
        stages = getattr(self, "stages", None)
        return len(self.blocks) or (len(stages) if isinstance(stages, nn.Sequential) else 0)

    @property
    def pool_width(self) -> int:
        """Width of the pooled features, which are the input of the head or of the pre-logits layer before it."""
        return self.width

    @abstractmethod
    def features(
        self, images: Float[Tensor, "b c height width"], blocks: Blocks | None = None, **options: Unpack[TapOptions]
    ) -> Features:
        """Returns the tokens of the images as `Features`, after the final norm unless the norm follows pooling.

        With `blocks`, `Features.taps` has the outputs of these blocks, of one forward pass and in the given order:
        indices from 0, negative ones from the end, or a number of last blocks. The blocks of a convolutional network
        are its stages, of which only the last has the width of the final norm. See `TapOptions` for the options.
        """

    @abstractmethod
    def represent(self, features: Features) -> Float[Tensor, "b *n d"]:
        """Returns the input of the head (b, d): the pooled features, after the pre-logits layer if there is one."""

    @abstractmethod
    def init_weights(self) -> None:
        """Initializes all parameters and buffers, with torch's global random generator. Also works after `to_empty`."""

    def init_buffers(self) -> None:
        """Initializes the buffers that are not in the state dict. `init_weights` calls this method, too."""

    def forward(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b *n classes"]:
        """Returns the logits of the images: `logits(features(images))`."""
        return self.logits(self.features(images))

    def logits(self, features: Features) -> Float[Tensor, "b *n classes"]:
        """Returns the logits for `features`, or the input of the head if the model has no classes."""
        return self.head(self.represent(features))

    def resize(self, image_size: tuple[int, int] | None = None, patch_size: tuple[int, int] | None = None) -> None:
        """Changes the native image size (in pixels) or the patch size (with FlexiViT's PI-resize) of the model.

        Parameters that depend on the sizes are resized once, by the methods that the config names. For sizes that the
        family does not support it raises ValueError and leaves the model unchanged.
        """
        if patch_size is not None and not hasattr(self.config, "patch_size"):
            raise ValueError(
                f"{type(self).__name__} has no patches, so the patch size cannot change; set image_size only"
            )
        changes = {"image_size": image_size, "patch_size": patch_size}
        given = {name: size for name, size in changes.items() if size is not None}
        config = dataclasses.replace(self.config, **given)
        with torch.no_grad():
            self.resize_parameters(config)
        self.config = config
        self.init_buffers()

    def resize_parameters(self, config: AnyConfig) -> None:
        """Resizes parameters and buffers to the image size and patch size of `config`. Called by `resize`.

        Families override it; parameters of convolutional networks do not depend on the sizes.
        """

    def adapt_channels(self, channels: int) -> None:
        """Adapts the input weights of an RGB model to another number of image channels, as timm does.

        The weight of the input convolution is summed over RGB for one channel, and repeated and scaled for others (see
        `layers.adapt_input_weight`). Raises ValueError if the model is not for RGB, and leaves it unchanged.
        """
        stem = next((module for module in self.modules() if isinstance(module, ResNetStem)), None)
        layer = stem or self.get_submodule("patch_embed")
        assert isinstance(layer, ResNetStem | PatchEmbed), "every family has one of them"
        config = dataclasses.replace(self.config, channels=channels)
        layer.adapt_channels(channels)
        self.config = config

    def reset_head(self, num_classes: int) -> None:
        """Replaces head and pre-logits layer with a zero-initialized linear head (ViT paper, section 3.2).

        The problem type of the task stays; its thresholds and statistics belong to the old head and are removed.
        """
        old = next(self.parameters())
        self.head = (
            nn.Linear(self.pool_width, num_classes, device=old.device, dtype=old.dtype)
            if num_classes
            else nn.Identity()
        )
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        changes = {"num_classes": num_classes, "task": self.config.task.for_new_head()}
        defaults = {"pre_logits": 0, "head_bias": True}
        changes |= {name: value for name, value in defaults.items() if hasattr(self.config, name)}
        self.config = dataclasses.replace(self.config, **changes)
        if isinstance(getattr(self, "pre_logits", None), nn.Module):
            self.pre_logits = nn.Identity()


class TokenBackbone(Backbone):
    """Base class of models with encoder blocks over tokens. Tokens can be masked between `embed` and `encode`."""

    patch_embed: PatchEmbed
    norm: nn.Module

    @abstractmethod
    def embed(self, images: Float[Tensor, "b c height width"]) -> Features:
        """Returns the input of the first block: the tokens of the images, with position embeddings."""

    @abstractmethod
    def encode(self, embedded: Features, taps: Taps | None = None) -> Features:
        """Runs embedded tokens through all blocks and the final norm. `taps` collects the outputs of chosen blocks."""

    def position_inputs(self, grid: tuple[int, int]) -> Iterator[PositionInput]:
        """Returns the positional input of each block for a grid of (rows, columns) patches.

        Raises ValueError for a family whose blocks need the grid itself.
        """
        raise ValueError(
            f"{type(self).__name__} cannot pack images of several sizes: its blocks need one grid at a time; "
            "run the model on each size separately"
        )

    def positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 rows d"] | None:
        """Returns the position embeddings that `embed` adds (special tokens first), or None if `embed` adds none."""
        return None

    def resize_parameters(self, config: AnyConfig) -> None:
        """Resizes the patch projection, position embeddings and relative position vectors."""
        if config.patch_size != self.config.patch_size:
            self.patch_embed.resize(config.patch_size)
        _positions.resize(self, config)

    def features(
        self, images: Float[Tensor, "b c height width"], blocks: Blocks | None = None, **options: Unpack[TapOptions]
    ) -> Features:
        """Returns `encode(embed(images))`. `Features.taps` contains the outputs of the chosen `blocks`.

        Raises ValueError if the height or width of the images is not a multiple of the patch size, unless the images
        have the native size of the model.
        """
        self.patch_embed.check_filled(images, self.config.image_size)
        taps = make_taps(blocks, self.num_taps, lambda _, tokens: self.norm(tokens), **options)
        embedded = self.embed(images)
        return self.encode(embedded) if taps is None else taps.attach(self.encode(embedded, taps))


_FAMILIES = Registry(__name__, "model family", NEEDS, plugin_kind="model", validate=partial(validate, Backbone))


def families() -> list[str]:
    """Returns the names of the model families."""
    return _FAMILIES.names()


def is_family(name: str) -> bool:
    """Returns whether a model family has this name."""
    return name in _FAMILIES


def family(name: str) -> ModuleType:
    """Returns the Python module of a model family.

    `name` is its name or a plug-in file such as `./mine.py`. Raises ValueError if the name is unknown, and PluginError
    if the module lacks a required attribute.
    """
    return _FAMILIES.find(name)


def family_of(config: object) -> str:
    """Returns the name of the model family of a config."""
    return _FAMILIES.name_of(type(config))


def presets() -> dict[str, AnyConfig]:
    """Returns the presets of all model families by name. Invalid model families of plug-ins are left out."""
    found: dict[str, AnyConfig] = {}
    owners: dict[str, str] = {}
    for each, module in sorted(_FAMILIES, key=lambda pair: discovery.component("model", pair[0]) is not None):
        for name, config in module.PRESETS.items():
            if owners.setdefault(name, each) == each:
                found[name] = config
            else:
                warn_left_out(f"the preset '{name}' of the model family '{each}', which '{owners[name]}' has, too")
    return found


def preset(name: str, **changes: object) -> AnyConfig:
    """Returns the config of a preset with changed fields, such as `preset("vit-b/16", image_size=384)`.

    Names of timm, transformers and the papers are also accepted: `vit_base_patch16_384` is `vit-b/16` with images of
    384 x 384 pixels. A preset in a plug-in file is given as `./mine.py:NAME`, or as `./mine.py` if the file has one
    preset. The file is loaded. An int for a size means a square. If the name is unknown, raises ValueError with similar
    names.
    """
    name = _loaded_preset(name)
    known = presets()
    found = _names.canonical(name, known)
    if found is None:
        raise ValueError(f"unknown model '{name}'{did_you_mean(name)}")
    if found[1] is not None:
        changes = {"image_size": found[1], **changes}
    pairs = {
        key: (value, value) if key.endswith("_size") and isinstance(value, int) else value
        for key, value in changes.items()
    }
    return configs.override(known[found[0]], pairs)


def canonical_name(name: str) -> str | None:
    """Converts a name of vitkit, timm, transformers or a paper to the name of a preset, or None if unknown."""
    found = _names.canonical(name, presets())
    return None if found is None else found[0]


def did_you_mean(name: str) -> str:
    """Returns the end of an error message that suggests similar presets, or the command that lists them."""
    near = _names.similar(name, presets())
    if not near:
        return "; `vitkit models` lists the architectures"
    return f"; did you mean {' or '.join(repr(each) for each in near)}?"


def _loaded_preset(name: str) -> str:
    """Loads the file of a reference such as `./mine.py:patch-mean/16`, and returns the preset name."""
    reference = parse(name)
    if reference is None:
        return name
    found = [each.name for each in discovery.load(reference.file) if each.kind == "model"]
    own = [preset for each in found for preset in _FAMILIES.get(each).PRESETS]
    chosen = [preset for preset in own if reference.name in (preset, "")]
    if len(chosen) != 1:
        if reference.name and own:
            problem = f"no model '{reference.name}'{configs.nearest(reference.name, own)}"
        else:
            problem = f"several models; write {reference.file}:{own[0]}, for example" if own else "no model family"
        raise PluginError(f"the file {reference.file} has {problem}")
    return chosen[0]


def build(config: AnyConfig, *, device: str | torch.device = "cpu", initialize: bool = True) -> Backbone:
    """Builds the model of a config. Weights are not initialized on the meta device or if `initialize=False`.

    Raises ValueError for a config that the model or its task does not support.
    """
    module = _FAMILIES.get(family_of(config))
    config.task.check(config.num_classes)
    with torch.device("meta"):
        model = _constructed(module, config)
    if torch.device(device).type == "meta":
        return model
    model = model.to_empty(device=device)
    if initialize:
        model.init_weights()
    else:
        model.init_buffers()
    return model


def _constructed(module: ModuleType, config: AnyConfig) -> Backbone:
    """Builds the model of a family. Raises PluginError if it is not a `Backbone` or lacks a method."""
    try:
        model = module.Model(config)
    except TypeError as error:
        if "abstract" not in str(error):
            raise
        raise PluginError(f"the model family '{family_of(config)}' is incomplete: {error}") from None
    if not isinstance(model, Backbone):
        raise PluginError(
            f"Model of the model family '{family_of(config)}' returned a {type(model).__name__}; expected a Backbone"
        )
    return model


def to_dict(config: Dataclass) -> JsonDict:
    """Converts a model config to a dict for JSON. The key `family` contains the name of the model family."""
    return {"family": family_of(config), **configs.to_dict(config)}


def from_dict(data: Json) -> AnyConfig:
    """Converts the output of `to_dict` back to a model config. Raises ValueError for an invalid dict."""
    if not isinstance(data.get("family"), str):
        raise ValueError("the model config has no key 'family' with the name of a model family")
    rest = {key: value for key, value in data.items() if key != "family"}
    return configs.from_dict(_FAMILIES.get(data["family"]).Config, rest)
