"""ResNet with GroupNorm and weight standardization: "ResNet (BiT)" of the ViT paper, section 4.1.

Checkpoints of Big Transfer (Kolesnikov et al. 2020) are pre-activation ("v2") with symmetric padding. big_vision's
later "bit" is post-activation with SAME padding, as are the hybrids. Both are configs of this family.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, Unpack

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers import (
    Blocks,
    Features,
    GroupNorm,
    PostBottleneck,
    PreBottleneck,
    ResNetStem,
    StdConv,
    TapOptions,
    init_layers,
    make_taps,
    resnet_stages,
    resnet_stride,
    resnet_width,
    run_stages,
)
from vitkit.models import Backbone
from vitkit.task import SINGLE_LABEL, Task


@dataclass(frozen=True, kw_only=True)
class Config:
    """Config of a BiT ResNet. `image_size` is (height, width) in pixels. Images of other sizes also work.

    `depths` are the numbers of bottlenecks per stage, `stem_width` is 64 times the width factor. The epsilon of the
    weight standardization is added to the variance in BiT (1e-10) and in timm (1e-8), and to the standard deviation in
    big_vision's "bit" (1e-5, with `norm_eps` 1e-6, padding "same" and order "post"). `num_classes` 0 means no head.
    """

    image_size: tuple[int, int] = (224, 224)
    channels: int = 3
    depths: tuple[int, ...] = (3, 4, 6, 3)
    stem_width: int = 64
    num_groups: int = 32
    num_classes: int = 1000
    task: Task = SINGLE_LABEL
    order: Literal["pre", "post"] = "pre"
    padding: Literal["symmetric", "same"] = "symmetric"
    norm_eps: float = 1e-5
    weight_eps: float = 1e-10
    weight_eps_on: Literal["std", "variance"] = "variance"

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that the model does not support."""
        if min(self.image_size) < 1 or self.channels < 1:
            raise ValueError(
                f"image_size is {self.image_size} and channels is {self.channels}; all values must be at least 1"
            )
        if not self.depths or any(depth < 1 for depth in self.depths):
            raise ValueError(
                f"depths is {self.depths}; expected at least 1 stage, and at least 1 bottleneck block per stage"
            )
        if self.num_groups < 1 or self.stem_width < 1 or self.stem_width % self.num_groups:
            raise ValueError(f"stem_width {self.stem_width} is not a positive multiple of num_groups {self.num_groups}")

    @property
    def width(self) -> int:
        """Number of output channels of the last stage."""
        return resnet_width(self.stem_width, self.depths)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the last feature map at the native image size. Every layer with stride 2 rounds up."""
        stride = resnet_stride(self.depths)
        return -(-self.image_size[0] // stride), -(-self.image_size[1] // stride)


class BiT(Backbone):
    """BiT ResNet: stem, stages, final norm, global average pooling and linear head.

    Parameter names are those of timm's `resnetv2`, except that the head is the linear layer `head` instead of the 1x1
    convolution `head.fc`, with the same values.
    """

    embedding_modules = ("stem", "stages")

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.width = config.width
        same, pre = config.padding == "same", config.order == "pre"
        conv = partial(StdConv, same=same, eps=config.weight_eps, eps_on=config.weight_eps_on)
        norm = partial(GroupNorm, config.num_groups, eps=config.norm_eps)
        stem_norm = None if pre else norm
        self.stem = ResNetStem(config.channels, config.stem_width, conv=conv, norm=stem_norm, same=same)
        bottleneck = PreBottleneck if pre else PostBottleneck
        self.stages = resnet_stages(config.stem_width, config.depths, bottleneck=bottleneck, conv=conv, norm=norm)
        self.norm = norm(self.width) if pre else nn.Identity()
        self.head = nn.Linear(self.width, config.num_classes) if config.num_classes else nn.Identity()
        self.blocks = nn.ModuleList()

    def features(
        self, images: Float[Tensor, "b c height width"], blocks: Blocks | None = None, **options: Unpack[TapOptions]
    ) -> Features:
        """Returns the last feature map as tokens, one per position. There are no special tokens."""
        taps = make_taps(blocks, self.num_taps, self._normalized, **options)
        x = run_stages(self.stem(images), self.stages, taps)
        if taps is None or not taps.stops:
            x = self._normalized(len(self.stages) - 1, x)
        features = Features(tokens=rearrange(x, "b d r c -> b (r c) d"), grid=(x.shape[2], x.shape[3]))
        return features if taps is None else taps.attach(features)

    def _normalized(self, stage: int, x: Float[Tensor, "b d r c"]) -> Float[Tensor, "b d r c"]:
        # Pre-activation stages end without norm and activation. Post-activation ones do not, and norm is the identity.
        return F.relu(self.norm(x)) if stage == len(self.stages) - 1 else x

    def represent(self, features: Features) -> Float[Tensor, "b d"]:
        """Returns the mean over the last feature map."""
        return features.patches.mean(dim=1)

    def init_weights(self) -> None:
        """Initializes convolutions (LeCun normal), norms (scale 1, bias 0) and head (zero, BiT paper, section 3.3)."""
        init_layers(self)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)


Model = BiT

# Bottlenecks per stage by number of layers; 50 to 152 from He et al. 2016, 200 from He et al. 2016b.
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}


def _preset(layers: int, factor: int) -> Config:
    return Config(depths=DEPTHS[layers], stem_width=64 * factor)


TINY = Config(image_size=(40, 40), depths=(1, 2), stem_width=8, num_groups=4, num_classes=5)
# BiT's published sizes and those of the ViT paper's Table 6.
SIZES = ((50, 1), (50, 2), (50, 3), (101, 1), (101, 3), (152, 1), (152, 2), (152, 4), (200, 3))
PRESETS = {f"bit-r{layers}x{factor}": _preset(layers, factor) for layers, factor in SIZES}
