"""timm's BiT ResNets (`resnetv2_*_bit`)."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitkit.config import JsonDict
from vitkit.layers import Features
from vitkit.layers.channels import as_input
from vitkit.models import bit
from vitkit.timm.layers import move_first
from vitkit.timm.models._arguments import bind
from vitkit.timm.models._features import Indices, feature_take_indices

FIXED: dict[str, tuple[Any, ...]] = {
    "channels": ((256, 512, 1024, 2048), [256, 512, 1024, 2048]),
    "output_stride": (32,),
    "stem_type": ("", "fixed"),
    "avg_down": (False,),
    "preact": (True,),
    "basic": (False,),
    "bottle_ratio": (0.25,),
    "act_layer": (nn.ReLU, "relu"),
    "norm_layer": (None,),
    "conv_layer": (None,),
    "drop_path_rate": (0, 0.0),
}
STEM = {"num_chs": 64, "reduction": 2, "module": "stem.conv"}


@dataclasses.dataclass(frozen=True)
class ResNetV2Arguments:
    """Arguments of timm's `ResNetV2` that are supported for BiT."""

    layers: tuple[int, ...] = (3, 4, 6, 3)
    num_classes: int = 1000
    in_chans: int = 3
    global_pool: str = "avg"
    width_factor: int = 1
    stem_chs: int = 64
    drop_rate: float = 0.0
    zero_init_last: bool = False
    img_size: int | tuple[int, int] = 224
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None

    def config(self) -> bit.Config:
        """Converts the arguments to a vitkit config."""
        size = self.img_size
        size = (size, size) if isinstance(size, int) else (size[0], size[1])
        return bit.Config(
            image_size=size,
            channels=self.in_chans,
            depths=tuple(self.layers),
            stem_width=self.stem_chs * self.width_factor,
            num_classes=0,
            weight_eps=1e-8,
        )


class ClassifierHead(nn.Module):
    """Global average pooling, dropout and a 1x1 convolution as classifier."""

    def __init__(self, width: int, num_classes: int, pool_type: str, drop_rate: float):
        super().__init__()
        if pool_type not in ("", "avg"):
            raise ValueError(f"global_pool is {pool_type!r}; vitkit's BiT supports 'avg' and ''")
        self.in_features = self.num_features = width
        self.global_pool = nn.AdaptiveAvgPool2d(1) if pool_type else nn.Identity()
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Conv2d(width, num_classes, 1) if num_classes > 0 else nn.Identity()
        self.flatten = nn.Flatten(1) if pool_type else nn.Identity()
        self.pool_type = pool_type

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Returns the logits of a feature map, or with `pre_logits` the pooled features."""
        x = self.drop(self.global_pool(x))
        return self.flatten(x if pre_logits else self.fc(x))


class ResNetStage(nn.Module):
    """A ResNet stage. Its bottlenecks are the attribute `blocks`.

    If `grad_checkpointing` is True, the backward pass recomputes the activations of each bottleneck.
    """

    def __init__(self, blocks: nn.Module):
        super().__init__()
        self.blocks = blocks
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Returns the feature map after all bottlenecks."""
        if not (self.grad_checkpointing and torch.is_grad_enabled()):
            return self.blocks(x)
        for block in self.blocks.children():
            x = checkpoint(block, x, use_reentrant=False)  # type: ignore[assignment]
        return x


class ResNetV2(bit.BiT):
    """BiT ResNet with timm's arguments, methods and parameter names.

    Raises TypeError for an unknown argument, and ValueError for an option that vitkit does not have.
    """

    default_out_indices = (0, 1, 2, 3, 4)
    arguments_class = ResNetV2Arguments
    default_cfg: JsonDict
    pretrained_cfg: JsonDict

    @classmethod
    def config_of(cls, **kwargs: Any) -> bit.Config:
        """Converts timm's arguments to a vitkit config. Raises the errors of the constructor."""
        return bind(ResNetV2Arguments, cls.__name__, (), kwargs, FIXED).config()

    def __init__(self, *args: Any, **kwargs: Any):
        arguments = bind(ResNetV2Arguments, type(self).__name__, args, kwargs, FIXED)
        device = torch.device(arguments.device) if arguments.device is not None else torch.get_default_device()
        with torch.device("meta"):
            bit.BiT.__init__(self, arguments.config())
            self.stages = nn.Sequential(*(ResNetStage(stage.get_submodule("blocks")) for stage in self.stages))
            for stage in self.stages:
                for block in stage.get_submodule("blocks").children():
                    move_first(block, "downsample")
            self.head = ClassifierHead(self.width, arguments.num_classes, arguments.global_pool, arguments.drop_rate)
        self.num_classes, self.in_chans, self.drop_rate = (
            arguments.num_classes,
            arguments.in_chans,
            arguments.drop_rate,
        )
        self.num_features = self.head_hidden_size = self.width
        stem = self.config.stem_width
        self.feature_info: list[JsonDict] = [STEM | {"num_chs": stem}] + [
            {"num_chs": 4 * stem * 2**index, "reduction": 4 * 2**index, "module": f"stages.{index}"}
            for index in range(len(self.stages))
        ]
        if device.type != "meta":
            self.to_empty(device=device)
            self.init_weights()
            if arguments.zero_init_last:
                for name, parameter in self.named_parameters():
                    if name.endswith("conv3.weight"):
                        nn.init.zeros_(parameter)
        if arguments.dtype is not None:
            self.to(arguments.dtype)

    def init_weights(self) -> None:
        """Initializes convolutions (Kaiming normal), norms (scale 1, bias 0) and the classifier (normal, std 0.01)."""
        super().init_weights()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.GroupNorm):
                nn.init.ones_(module.weight)
        if isinstance(self.head, ClassifierHead) and isinstance(self.head.fc, nn.Conv2d):
            nn.init.normal_(self.head.fc.weight, std=0.01)

    def forward_features(self, x: Tensor) -> Tensor:
        """Returns the last feature map (b, d, rows, columns), after norm and activation."""
        return self._normalized(len(self.stages) - 1, self.stages(self.stem(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Returns the logits of a feature map, or with `pre_logits` the pooled features."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits of images."""
        return self.forward_head(self.forward_features(images))

    def logits(self, features: Features) -> Tensor:
        """Returns the logits of features."""
        return self.head(features.map)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Indices = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Returns the final feature map and those of chosen stages. Index 0 is the stem, before its max-pooling."""
        if output_fmt != "NCHW":
            raise AssertionError("Output shape must be NCHW.")
        chosen, last = feature_take_indices(len(self.feature_info), indices)
        stem: Any = self.stem
        x = stem.conv(as_input(x, stem.channels, stem.conv))
        found = {0: x}
        x = stem.pool(stem.act(stem.norm(x)))
        for index, stage in enumerate(self.stages, start=1):
            if stop_early and index > last:
                break
            x = stage(x)
            final = index == len(self.feature_info) - 1
            found[index] = self.norm_act(x) if norm and final else x
        outputs = [found[index] for index in sorted(set(chosen))]
        if intermediates_only:
            return outputs
        return self.norm_act(x) if max(found) == len(self.feature_info) - 1 else x, outputs

    def norm_act(self, x: Tensor) -> Tensor:
        """Applies the final norm and its activation. Returns `x` unchanged if both were pruned."""
        return x if isinstance(self.norm, nn.Identity) else self._normalized(len(self.stages) - 1, x)

    def prune_intermediate_layers(
        self, indices: Indices = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes the stages after the last chosen one, and optionally norm and head. Returns the chosen indices."""
        chosen, last = feature_take_indices(len(self.feature_info), indices)
        ends = last < len(self.stages)
        if prune_norm or ends:
            self.norm = nn.Identity()
        self.stages = self.stages[:last]
        if prune_head or ends:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
            self.reset_classifier(0, "")
        return chosen

    def get_classifier(self) -> nn.Module:
        """Returns the classifier."""
        return self.head.fc  # type: ignore[return-value]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier with a randomly initialized one, and changes the pooling."""
        old: Any = self.head
        like: Any = self.stem.conv.weight
        pool = old.pool_type if global_pool is None else global_pool
        self.num_classes = num_classes
        self.head = ClassifierHead(self.num_features, num_classes, pool, self.drop_rate).to(like)
        self.head.train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Enables or disables activation checkpointing of the bottlenecks."""
        for stage in self.stages:
            stage.grad_checkpointing = enable  # type: ignore[assignment]

    def group_matcher(self, coarse: bool = False) -> JsonDict:
        """Returns patterns of parameter names for layer-wise learning rates, in timm's format."""
        fine = [(r"^stages\.(\d+)\.blocks\.(\d+)", None), (r"^norm", (99999,))]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else fine}
