"""ResNet v1.5 with batch norm (He et al. 2016a), as in transformers, timm and torchvision.

"v1.5" has the stride of a bottleneck in its 3x3 convolution, as all published PyTorch weights do. `models.bit` is the
ResNet of the ViT paper, with group norm and weight standardization.
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Literal, Unpack

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers import (
    BasicBlock,
    BatchNorm,
    Blocks,
    Features,
    PostBottleneck,
    ResNetStem,
    TapOptions,
    init_layers,
    make_taps,
    plain_conv,
    run_stages,
)
from vitkit.layers.activations import ActivationName
from vitkit.models import Backbone
from vitkit.task import SINGLE_LABEL, Task


@dataclass(frozen=True, kw_only=True)
class Config:
    """Config of a ResNet. `image_size` is (height, width) in pixels. Images of other sizes also work.

    `depths` are the numbers of blocks per stage, and `widths` the numbers of output channels of the stages. A
    bottleneck has `width // reduction` channels inside. `activation` follows the stem and the sums of the blocks, and
    `inner_activation` the convolutions inside blocks: transformers always has ReLU there. `downsample_in_first_stage`
    is a stride of 2 in the first stage, and `downsample_in_bottleneck` a stride in the first 1x1 convolution of a
    bottleneck instead of the 3x3 one (the original "v1"). `num_classes` 0 means no head.
    """

    image_size: tuple[int, int] = (224, 224)
    channels: int = 3
    stem_width: int = 64
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    block: Literal["basic", "bottleneck"] = "bottleneck"
    reduction: int = 4
    activation: ActivationName = "relu"
    inner_activation: ActivationName = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False
    num_classes: int = 1000
    task: Task = SINGLE_LABEL

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that the model does not support."""
        if min(*self.image_size, self.channels, self.stem_width, self.reduction) < 1:
            raise ValueError(
                f"image_size is {self.image_size}, channels is {self.channels}, stem_width is {self.stem_width} and "
                f"reduction is {self.reduction}; all must be at least 1"
            )
        if not self.depths or min(self.depths) < 1:
            raise ValueError(f"depths is {self.depths}; expected at least 1 stage, and at least 1 block per stage")
        if len(self.widths) != len(self.depths):
            raise ValueError(f"widths {self.widths} and depths {self.depths} need one value for each stage")
        least = self.reduction if self.block == "bottleneck" else 1
        if min(self.widths) < least:
            raise ValueError(f"widths is {self.widths}; the {self.block} blocks need at least {least} channels")

    @property
    def width(self) -> int:
        """Number of output channels of the last stage."""
        return self.widths[-1]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the last feature map at the native image size. Every halving rounds up."""
        stride = 4 * 2 ** (len(self.depths) - 1 + self.downsample_in_first_stage)
        return -(-self.image_size[0] // stride), -(-self.image_size[1] // stride)


class ResNet(Backbone):
    """ResNet: stem, stages of residual blocks with batch norm, global average pooling and linear head.

    `stem` returns the feature map before the stages. Parameter names are those of the other convolutional families:
    `stem.conv`, `stages.N.blocks.M.conv1`, `stages.N.blocks.M.downsample.norm`.
    """

    embedding_modules = ("stem", "stages")

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.width = config.width
        self.stem = ResNetStem(
            config.channels,
            config.stem_width,
            conv=plain_conv,
            norm=BatchNorm,
            same=False,
            act=config.activation,
        )
        self.stages = nn.Sequential(*(_stage(config, stage) for stage in range(len(config.depths))))
        self.head = nn.Linear(self.width, config.num_classes) if config.num_classes else nn.Identity()
        self.blocks = nn.ModuleList()

    def features(
        self, images: Float[Tensor, "b c height width"], blocks: Blocks | None = None, **options: Unpack[TapOptions]
    ) -> Features:
        """Returns the positions of the last feature map as tokens, without special tokens."""
        # The blocks end with an activation; there is no final norm.
        taps = make_taps(blocks, self.num_taps, lambda _, x: x, **options)
        x = run_stages(self.stem(images), self.stages, taps)
        features = Features(tokens=rearrange(x, "b d r c -> b (r c) d"), grid=(x.shape[2], x.shape[3]))
        return features if taps is None else taps.attach(features)

    def represent(self, features: Features) -> Float[Tensor, "b d"]:
        """Returns the mean over the last feature map."""
        return features.patches.mean(dim=1)

    def init_weights(self) -> None:
        """Initializes convolutions (He normal, fan-out), batch norms (last scale of a block 0) and the head."""
        init_layers(self)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(self.head, nn.Linear):
            self.head.reset_parameters()


def _stage(config: Config, stage: int) -> nn.Sequential:
    width, reduced = config.widths[stage], config.widths[stage] // config.reduction
    in_width = config.widths[stage - 1] if stage else config.stem_width
    activations = (config.inner_activation, config.activation)
    make = partial(BasicBlock, width=width) if config.block == "basic" else partial(
        PostBottleneck, width=reduced, out_width=width, stride_first=config.downsample_in_bottleneck
    )  # fmt: skip
    blocks = []
    for block in range(config.depths[stage]):
        stride = 2 if block == 0 and (stage > 0 or config.downsample_in_first_stage) else 1
        blocks.append(make(in_width, stride=stride, conv=plain_conv, norm=BatchNorm, activations=activations))
        in_width = width
    return nn.Sequential(OrderedDict(blocks=nn.Sequential(*blocks)))


Model = ResNet

# Blocks per stage by number of layers (He et al. 2016a, Table 1).
BASIC_WIDTHS = (64, 128, 256, 512)
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}

TINY = Config(image_size=(40, 40), stem_width=8, widths=(16, 24), depths=(1, 2), num_classes=5)
PRESETS = {
    f"resnet{layers}": Config(depths=depths) if layers >= 50 else Config(
        depths=depths, widths=BASIC_WIDTHS, block="basic"
    )
    for layers, depths in DEPTHS.items()
}  # fmt: skip
