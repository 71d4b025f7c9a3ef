"""A model family: patches are embedded, mixed by two residual layers, and averaged.

    vitkit check ./my_model.py
    vitkit train digits.tiny --plugin ./my_model.py --model my-model/16
    vitkit.plugins.load("./my_model.py"); vitkit.create_model("my-model/16")      # in Python

The family is named after the file. To load a checkpoint of this family, pass --plugin ./my_model.py.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers import Features, PatchEmbed, Taps
from vitkit.models import TokenBackbone
from vitkit.task import SINGLE_LABEL, Task


# The config is saved with every checkpoint. It holds numbers, strings and tuples. The first five fields are required.
@dataclass(frozen=True, kw_only=True)
class Config:
    """Config of the model. Sizes are (height, width) in pixels; `num_classes` 0 means no head."""

    image_size: tuple[int, int] = (224, 224)
    channels: int = 3
    num_classes: int = 1000
    task: Task = SINGLE_LABEL
    patch_size: tuple[int, int] = (16, 16)
    width: int = 192
    depth: int = 4

    def __post_init__(self) -> None:
        """Raises ValueError if a field is out of range: what is wrong, the value, and what is expected."""
        if self.width < 1 or self.depth < 1:
            raise ValueError(f"width is {self.width} and depth is {self.depth}; both must be at least 1")


class Mixer(nn.Module):
    """Residual layer that mixes every token with the mean of all tokens."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.own = nn.Linear(width, width)
        self.mean = nn.Linear(width, width, bias=False)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Returns the mixed tokens."""
        normed = self.norm(tokens)
        return tokens + nn.functional.gelu(self.own(normed) + self.mean(normed.mean(dim=1, keepdim=True)))


# A model without encoder blocks derives from vitkit.models.Backbone, and defines `features` instead of `embed` and
# `encode`.
class MyModel(TokenBackbone):
    """Patch embedding, residual layers, norm, mean over patches, and a linear head."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.width = config.width
        self.patch_embed = PatchEmbed(config.channels, config.width, config.patch_size)
        self.blocks = nn.ModuleList(Mixer(config.width) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        # Fine-tuning replaces the head by its name.
        self.head = nn.Linear(config.width, config.num_classes) if config.num_classes else nn.Identity()

    def embed(self, images: Float[Tensor, "b c height width"]) -> Features:
        """Returns the input of the first block."""
        patches = self.patch_embed(images)
        grid = (patches.shape[2], patches.shape[3])
        return Features(tokens=rearrange(patches, "b d r c -> b (r c) d"), grid=grid)

    def encode(self, embedded: Features, taps: Taps | None = None) -> Features:
        """Runs tokens through all blocks and the final norm. `taps` collects the outputs of selected blocks."""
        tokens = embedded.tokens
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            if taps is not None and taps.add(index, tokens):
                break
        return embedded.with_tokens(self.norm(tokens))

    def represent(self, features: Features) -> Float[Tensor, "b d"]:
        """Returns the input of the head."""
        return features.patches.mean(dim=1)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initializes every parameter and buffer. The model is built on the meta device, without values."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm | nn.Conv2d):
                module.reset_parameters()
        self.init_buffers()


Model = MyModel
# Names for `vitkit models`, `--model` and `vitkit.create_model`.
PRESETS = {"my-model/16": Config(), "my-model/32": Config(patch_size=(32, 32))}
# A model that runs in milliseconds, for `vitkit check`.
TINY = Config(image_size=(32, 32), patch_size=(8, 8), width=16, depth=2, num_classes=5)
