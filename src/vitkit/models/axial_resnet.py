"""AxialResNet: a ResNet with axial attention in place of the 3x3 convolutions.

The baseline of the ViT paper's appendix D.6, which follows the published code of Axial-DeepLab (Wang et al. 2020). The
presets are those of that code; which sizes the paper trained, and how, was not published.
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Unpack

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers import (
    BatchNorm,
    Blocks,
    Features,
    RelativeLineAttention,
    ResNetStem,
    TapOptions,
    init_layers,
    make_taps,
    plain_conv,
    run_stages,
)
from vitkit.models import Backbone
from vitkit.task import SINGLE_LABEL, Task

EXPANSION = 2


@dataclass(frozen=True, kw_only=True)
class Config:
    """Config of an AxialResNet model. `image_size` is (height, width) in pixels.

    The tables of relative positions fit images of that size and are interpolated for other sizes. `depths` are the
    numbers of bottlenecks per stage, `stem_width` is 64 times the width factor: S 0.5, M 0.75, L 1.
    """

    image_size: tuple[int, int] = (224, 224)
    channels: int = 3
    depths: tuple[int, ...] = (3, 4, 6, 3)
    stem_width: int = 64
    num_heads: int = 8
    num_classes: int = 1000
    task: Task = SINGLE_LABEL
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that the model does not support."""
        if min(self.image_size) < 1 or self.channels < 1 or self.stem_width < 1 or self.num_heads < 1:
            raise ValueError(
                f"sizes, channels, widths and numbers of heads must be at least 1, but the config is {self}"
            )
        if not self.depths or any(depth < 1 for depth in self.depths):
            raise ValueError(
                f"depths is {self.depths}; expected at least 1 stage, and at least 1 bottleneck block per stage"
            )
        if self.stem_width % self.num_heads:
            raise ValueError(f"stem_width {self.stem_width} is not a multiple of num_heads {self.num_heads}")

    @property
    def width(self) -> int:
        """Number of output channels of the last stage."""
        return EXPANSION * 2 * self.stem_width * 2 ** (len(self.depths) - 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the last feature map at the native image size."""
        return self.map_size(len(self.depths) - 1)

    def map_size(self, stage: int) -> tuple[int, int]:
        """Returns the rows and columns of the output map of a stage, counted from 0. Every halving rounds up."""
        stride = 4 * 2**stage
        return -(-self.image_size[0] // stride), -(-self.image_size[1] // stride)


class AxialBottleneck(nn.Module):
    """Post-activation bottleneck block with attention along columns and rows in place of the 3x3 convolution.

    A stride is average-pooling after the attention. The initial scale of the last norm is zero. `lengths` are the rows
    and columns of the input map.
    """

    def __init__(self, in_width: int, width: int, stride: int, *, num_heads: int, lengths: tuple[int, int], eps: float):
        super().__init__()
        out_width = EXPANSION * width
        self.conv1 = plain_conv(in_width, width, 1)
        self.norm1 = BatchNorm(width, eps=eps)
        self.column = RelativeLineAttention(width, num_heads, lengths[0], norm_eps=eps)
        self.row = RelativeLineAttention(width, num_heads, lengths[1], norm_eps=eps)
        # Rounds up as the strided convolution of the shortcut does; the original supports even sizes only.
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.conv2 = plain_conv(width, out_width, 1)
        self.norm2 = BatchNorm(out_width, eps=eps, initial=0.0)
        shortcut: OrderedDict[str, nn.Module] = OrderedDict(
            conv=plain_conv(in_width, out_width, 1, stride), norm=BatchNorm(out_width, eps=eps)
        )
        self.downsample = nn.Sequential(shortcut) if in_width != out_width or stride != 1 else nn.Identity()

    def forward(self, x: Float[Tensor, "b c rows columns"]) -> Float[Tensor, "b d new_rows new_columns"]:
        """Returns the ReLU of the sum of the shortcut and the residual branch."""
        rows, columns = x.shape[2], x.shape[3]
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.column(rearrange(y, "b d r c -> (b c) d r"))
        y = self.row(rearrange(y, "(b c) d r -> (b r) d c", c=columns))
        y = F.relu(self.pool(rearrange(y, "(b r) d c -> b d r c", r=rows)))
        return F.relu(self.norm2(self.conv2(y)) + self.downsample(x))


class AxialResNet(Backbone):
    """AxialResNet: stem, stages of axial bottleneck blocks, global average pooling and linear head."""

    embedding_modules = ("stem", "stages")

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.width = config.width
        norm = partial(BatchNorm, eps=config.norm_eps)
        self.stem = ResNetStem(config.channels, config.stem_width, conv=plain_conv, norm=norm, same=False)
        self.stages = nn.Sequential(*(self._stage(stage) for stage in range(len(config.depths))))
        self.head = nn.Linear(self.width, config.num_classes) if config.num_classes else nn.Identity()
        self.blocks = nn.ModuleList()

    def _stage(self, stage: int) -> nn.Sequential:
        config = self.config
        width = 2 * config.stem_width * 2**stage
        # The previous stage doubled its width, which equals the width of this one.
        in_width = config.stem_width if stage == 0 else width
        lengths = config.map_size(max(stage - 1, 0))
        blocks = []
        for block in range(config.depths[stage]):
            stride = 2 if block == 0 and stage > 0 else 1
            blocks.append(
                AxialBottleneck(
                    in_width, width, stride, num_heads=config.num_heads, lengths=lengths, eps=config.norm_eps
                )
            )
            in_width, lengths = EXPANSION * width, config.map_size(stage)
        return nn.Sequential(OrderedDict(blocks=nn.Sequential(*blocks)))

    def features(
        self, images: Float[Tensor, "b c height width"], blocks: Blocks | None = None, **options: Unpack[TapOptions]
    ) -> Features:
        """Returns the positions of the last feature map as tokens, without special tokens."""
        # The bottlenecks end with a norm and a ReLU; there is no final norm.
        taps = make_taps(blocks, self.num_taps, lambda _, x: x, **options)
        x = run_stages(self.stem(images), self.stages, taps)
        features = Features(tokens=rearrange(x, "b d r c -> b (r c) d"), grid=(x.shape[2], x.shape[3]))
        return features if taps is None else taps.attach(features)

    def resize_parameters(self, config: Config) -> None:
        """Interpolates the relative position embeddings to the feature map sizes of `config`."""
        for stage, blocks in enumerate(self.stages):
            for index, block in enumerate(blocks.blocks):  # type: ignore[arg-type]
                rows, columns = config.map_size(stage if index else max(stage - 1, 0))
                block.column.resize(rows)
                block.row.resize(columns)

    def represent(self, features: Features) -> Float[Tensor, "b d"]:
        """Returns the mean over the last feature map."""
        return features.patches.mean(dim=1)

    def init_weights(self) -> None:
        """Initializes weights as in Axial-DeepLab (He normal convolutions, normal attention). The head is zero."""
        init_layers(self)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, RelativeLineAttention):
                module.init_weights()
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)


Model = AxialResNet

TINY = Config(image_size=(40, 40), depths=(1, 2), stem_width=8, num_heads=2, num_classes=5)
PRESETS = {
    "axial-resnet26-s": Config(depths=(1, 2, 4, 1), stem_width=32),
    "axial-resnet50-s": Config(stem_width=32),
    "axial-resnet50-m": Config(stem_width=48),
    "axial-resnet50-l": Config(stem_width=64),
}
