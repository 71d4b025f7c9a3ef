"""Models: one file a family, each with `Config` (a frozen dataclass), `Model`, `PRESETS` and `TINY`.

`Model(config)` makes a final `Backbone`: the class itself, or a function that composes one of another family's (the
hybrid is a ViT handed its patch embedding). `TINY` is a config that runs in milliseconds, on which the contract tests
try every family. A new family is one new file here: it is found by its file name, and every objective, evaluator,
exporter, command and contract test then works with it. Models know nothing of devices, precision, parallelism or
export. Parameter names are timm's.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitkit import config as configs
from vitkit.layers import Features, PatchEmbed, Place
from vitkit.models import _positions
from vitkit.registry import Registry

_FAMILIES = Registry(__name__, "model family", ("Config", "Model", "PRESETS", "TINY"))


class Backbone(nn.Module, ABC):
    """A network that turns images into `Features`, with a head that turns those into logits.

    `images` are float tensors (b, channels, height, width), already normalised, at least one patch high and wide;
    `width` is that of a token.
    """

    config: Any
    width: int
    head: nn.Module
    # Encoder blocks in order; an empty list for a model without them. The stages of a convolutional network are none.
    blocks: nn.ModuleList
    # Submodules that come before the blocks, and every submodule that maps the representation to logits.
    embedding_modules: ClassVar[tuple[str, ...]] = ("patch_embed",)
    head_modules: ClassVar[tuple[str, ...]] = ("head",)

    @property
    def family(self) -> str:
        """Name of the family that the config belongs to: a file of this folder."""
        return family_of(self.config)

    def layer_of(self, name: str) -> int:
        """Layer index of a parameter for layer-wise learning rates (BEiT's rule, also MAE's and DINOv2's).

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
        """Parameters of every head by name; empty for a model without classes."""
        return {
            f"{head}.{name}": parameter
            for head in self.head_modules
            for name, parameter in self.get_submodule(head).named_parameters()
        }

    @property
    def pool_width(self) -> int:
        """How wide what the tokens are pooled to is: the head without pre-logits reads as much."""
        return self.width

    @abstractmethod
    def features(self, images: Float[Tensor, "b c height width"]) -> Features:
        """The tokens of the images, after the final norm where the family has one before its pooling."""

    @abstractmethod
    def represent(self, features: Features) -> Float[Tensor, "b *n d"]:
        """What the head reads: pooled features through the pre-logits layer, if the config has one; (b, d)."""

    @abstractmethod
    def init_weights(self) -> None:
        """Fills every parameter and buffer, from torch's global generator; works on a model made on the meta device."""

    def init_buffers(self) -> None:
        """Fills the buffers that no checkpoint holds (fixed position tables); `init_weights` calls it too."""

    def forward(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b *n classes"]:
        """`logits(features(images))`."""
        return self.logits(self.features(images))

    def logits(self, features: Features) -> Float[Tensor, "b *n classes"]:
        """Features to logits; the representation itself where the model has no classes."""
        return self.head(self.represent(features))

    def resize(self, image_size: tuple[int, int] | None = None, patch_size: tuple[int, int] | None = None) -> None:
        """Makes another size of images (pixels), or of patches (FlexiViT's PI-resize), the model's native one.

        What depends on them is resized once, in the dialect of the config. Raises ValueError for sizes that the family
        cannot have, and leaves the model as it was.
        """
        if patch_size is not None and not hasattr(self.config, "patch_size"):
            raise ValueError(f"{type(self).__name__} cuts no patches whose size could change")
        changes = {"image_size": image_size, "patch_size": patch_size}
        given = {name: size for name, size in changes.items() if size is not None}
        config = dataclasses.replace(self.config, **given)
        with torch.no_grad():
            self.fit(config)
        self.config = config
        self.init_buffers()

    def fit(self, config: Any) -> None:
        """Makes parameters and buffers that depend on the sizes of the config fit another one, for `resize`.

        A family whose tensors know of sizes says here how they change; those of a convolution do not.
        """

    def reset_head(self, num_classes: int) -> None:
        """Puts a new, zero linear head for `num_classes` in place of head and pre-logits (ViT paper, section 3.2)."""
        old = next(self.parameters())
        self.head = (
            nn.Linear(self.pool_width, num_classes, device=old.device, dtype=old.dtype)
            if num_classes
            else nn.Identity()
        )
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        changes = {"num_classes": num_classes} | ({"pre_logits": 0} if getattr(self.config, "pre_logits", 0) else {})
        self.config = dataclasses.replace(self.config, **changes)
        if "pre_logits" in changes:
            self.pre_logits = nn.Identity()


class TokenBackbone(Backbone):
    """A backbone that is a sequence of blocks over tokens, split so that tokens can be changed in between (masking)."""

    patch_embed: PatchEmbed
    norm: nn.Module

    @abstractmethod
    def embed(self, images: Float[Tensor, "b c height width"]) -> Features:
        """Images to tokens with positions, before the first block."""

    @abstractmethod
    def encode(self, embedded: Features) -> Features:
        """Embedded tokens through the blocks and the final norm."""

    def places(self, grid: tuple[int, int]) -> Iterator[Place]:
        """What each block is told of a grid of so many rows and columns; what `encode` and packing (`packing`) run on.

        Raises ValueError for a family whose blocks are not told but laid out by the grid.
        """
        raise ValueError(
            f"the blocks of {type(self).__name__} need one grid at a time: pictures of several sizes cannot be packed, "
            "run it on each size by itself"
        )

    def positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 rows d"] | None:
        """What `embed` adds to the tokens of a grid for where they are, special rows first; None for nothing."""
        return None

    def fit(self, config: Any) -> None:
        """The patch projection, tables of positions, and vectors for offsets."""
        if config.patch_size != self.config.patch_size:
            self.patch_embed.resize(config.patch_size)
        _positions.fit(self, config)

    def features(self, images: Float[Tensor, "b c height width"]) -> Features:
        """`encode(embed(images))`."""
        return self.encode(self.embed(images))


def families() -> list[str]:
    """Returns the names of the families."""
    return _FAMILIES.names()


def family(name: str) -> ModuleType:
    """Returns the module of one family; ValueError for an unknown name."""
    return _FAMILIES.get(name)


def family_of(config: Any) -> str:
    """The name of the family that a config belongs to."""
    return type(config).__module__.rpartition(".")[2]


def presets() -> dict[str, Any]:
    """Every named config of every family."""
    return {name: config for each in families() for name, config in family(each).PRESETS.items()}


def preset(name: str, **changes: Any) -> Any:
    """The config of that name, as in `preset("vit-b/16", image_size=384, num_classes=10)`.

    An int for a size means a square. Raises ValueError that lists the near names for an unknown one.
    """
    known = presets()
    if name not in known:
        raise ValueError(f"unknown model '{name}'{configs.nearest(name, known)}")
    pairs = {
        key: (value, value) if key.endswith("_size") and isinstance(value, int) else value
        for key, value in changes.items()
    }
    return configs.override(known[name], pairs)


def build(config: Any, *, device: str | torch.device = "cpu", initialise: bool = True) -> Backbone:
    """The model of that config with fresh weights; undefined ones on the meta device or with `initialise=False`."""
    module = family(family_of(config))
    with torch.device("meta"):
        model = module.Model(config)
    if torch.device(device).type == "meta":
        return model
    model = model.to_empty(device=device)
    if initialise:
        model.init_weights()
    else:
        model.init_buffers()
    return model


def to_dict(config: Any) -> dict[str, Any]:
    """The JSON form of a model config: its fields, and its family under `family`."""
    return {"family": family_of(config), **configs.to_dict(config)}


def from_dict(data: Mapping[str, Any]) -> Any:
    """The model config that `to_dict` gave as `data`; ValueError as `config.from_dict`."""
    if not isinstance(data.get("family"), str):
        raise ValueError("a model config needs its 'family'")
    rest = {key: value for key, value in data.items() if key != "family"}
    return configs.from_dict(family(data["family"]).Config, rest)
