"""BEiT as a backbone and for semantic segmentation (UPerNet head), with the API of transformers.

The heads are those of mmsegmentation: Xiao et al. 2018 (UPerNet) and Long et al. 2015 (FCN, the auxiliary head).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitkit.transformers.configuration import PretrainedConfig
from vitkit.transformers.families._backbone import Backbone
from vitkit.transformers.families._base import HeadModel, Options, finished, need_pixels
from vitkit.transformers.families.beit import BeitConfig, BeitModel
from vitkit.transformers.losses import segmentation_loss
from vitkit.transformers.names import VIT, Names
from vitkit.transformers.outputs import BackboneOutput, SemanticSegmenterOutput
from vitkit.transformers.properties import PropertyModule, alias

FeatureMap = Float[Tensor, "b d rows columns"]
# Modules of the feature pyramid: v5 name to v4 name.
PYRAMID = {
    "fpn.fpn1.conv_transpose1": "fpn1.0",
    "fpn.fpn1.normalization": "fpn1.1",
    "fpn.fpn1.activation": "fpn1.2",
    "fpn.fpn1.conv_transpose2": "fpn1.3",
    "fpn.fpn2": "fpn2.0",
    "fpn.fpn4": "fpn4",
}


class UpBlock(nn.Sequential, PropertyModule):  # type: ignore[misc] - different types of `_modules`
    """Upsampling by 4: two transposed convolutions, with batch norm and GELU between them."""

    conv_transpose1 = alias("0", "The first transposed convolution.")
    normalization = alias("1", "The batch norm.")
    activation = alias("2", "The activation.")
    conv_transpose2 = alias("3", "The second transposed convolution.")

    def __init__(self, width: int):
        super().__init__(_double(width), nn.BatchNorm2d(width), nn.GELU(), _double(width))


def _double(width: int) -> nn.ConvTranspose2d:
    """Creates a transposed convolution that doubles the rows and columns."""
    return nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)


class PyramidNames(PropertyModule):
    """The modules of a feature pyramid under their names in transformers 5."""

    fpn1 = alias("model.fpn1", "Upsampling by 4.")
    fpn2 = alias("model.fpn2.0", "Upsampling by 2.")
    fpn4 = alias("model.fpn4", "Downsampling by 2.")

    def __init__(self, model: nn.Module):
        super().__init__()
        self.__dict__["model"] = model


class Pyramid(nn.Module):
    """Base class of models with a feature pyramid: four feature maps, resized by factors 4, 2, 1 and 1/2."""

    def add_pyramid(self, width: int) -> None:
        """Adds the modules of the pyramid, with the names of transformers 4."""
        self.fpn1 = UpBlock(width)
        self.fpn2 = nn.Sequential(_double(width))
        self.fpn3 = nn.Identity()
        self.fpn4 = nn.MaxPool2d(kernel_size=2, stride=2)

    @property
    def fpn(self) -> nn.Module:
        """The pyramid, under its name in transformers 5."""
        return PyramidNames(self)

    def pyramid(self, maps: Sequence[FeatureMap]) -> tuple[FeatureMap, ...]:
        """Returns the feature maps at the four scales."""
        return self.fpn1(maps[0]), self.fpn2(maps[1]), self.fpn3(maps[2]), self.fpn4(maps[3])


def _check_stages(config: BeitConfig, kind: str) -> None:
    if len(config.out_indices) != 4:
        raise ValueError(
            f"{kind} requires config.out_indices to be a list of 4 integers, specifying which features to use from the "
            f"backbone, got {list(config.out_indices)}. One can use [3, 5, 7, 11] in case of a base-sized architecture."
        )


class BeitBackbone(BeitModel, Pyramid, Backbone):
    """BEiT backbone. Returns the feature maps of the stages in `config.out_features`.

    With `config.add_fpn`, the maps of the four stages are resized by factors 4, 2, 1 and 1/2.
    """

    names = Names(
        {"beit.layers": "encoder.layer"},
        BeitModel.names.inside,
        {
            "beit.shared_position_bias": "encoder.relative_position_bias",
            "beit.embeddings": "embeddings",
            "beit.layernorm": "layernorm",
            **PYRAMID,
        },
        {r"beit\.layers\.\d+": VIT.order[r"layers\.\d+"]},
    )

    def __init__(self, config: BeitConfig):
        super().__init__(config, add_pooling_layer=False)
        if self.config.add_fpn:
            _check_stages(self.config, "BeitBackbone")
            self.add_pyramid(self.config.hidden_size)
            self.post_init()

    @property
    def beit(self) -> "BeitBackbone":
        """The model itself, with `name_format` "v5": transformers 5 stores the encoder as `beit`.

        With "v4", it raises AttributeError, because an attribute with the name in `base_model_prefix` is a base model.
        """
        if self._name_format != "v5":
            raise AttributeError("BeitBackbone has the attribute beit only with name_format='v5'")
        return self

    def forward(  # type: ignore[override]
        self, pixel_values: Float[Tensor, "b c height width"] | None = None, **options: Unpack[Options]
    ) -> Any:
        """Returns the feature maps (b, d, rows, columns) and the outputs of the selected layers."""
        pixels = need_pixels(pixel_values)
        size = (pixels.shape[2], pixels.shape[3])
        tokens = self.embeddings(pixels)
        _, states, attentions = self.encode(tokens, {**options, "output_hidden_states": True}, self.biases(*size))
        maps = self.feature_maps(states, self.embeddings.grid_of(*size), 1, nn.Identity())  # type: ignore[arg-type]
        output = BackboneOutput(
            feature_maps=self.pyramid(maps) if self.config.add_fpn else maps,
            hidden_states=self.chosen_states(states, options),
            attentions=attentions,
        )
        return finished(self, output, options)


class BeitConvModule(PropertyModule):
    """Convolution without bias, batch norm and ReLU."""

    convolution = alias("conv", "The convolution, under its name in transformers 5.")
    normalization = alias("bn", "The batch norm, under its name in transformers 5.")

    def __init__(self, inputs: int, outputs: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.activation = nn.ReLU()

    def forward(self, x: FeatureMap) -> FeatureMap:
        """Returns the feature map after convolution, batch norm and ReLU."""
        return self.activation(self.bn(self.conv(x)))


class BeitPyramidPoolingBlock(nn.Sequential, PropertyModule):  # type: ignore[misc] - as `UpBlock`
    """Average pooling to a fixed number of rows and columns, and a 1 x 1 convolution."""

    pooling = alias("0", "The pooling, under its name in transformers 5.")
    conv = alias("1", "The convolution with batch norm, under its name in transformers 5.")

    def __init__(self, scale: int, inputs: int, outputs: int):
        super().__init__(nn.AdaptiveAvgPool2d(scale), BeitConvModule(inputs, outputs, 1))


class BeitPyramidPoolingModule(nn.ModuleList):
    """Pyramid pooling (Zhao et al. 2017): pools a feature map to several scales and resizes them back."""

    def __init__(self, scales: Sequence[int], inputs: int, outputs: int):
        super().__init__(BeitPyramidPoolingBlock(scale, inputs, outputs) for scale in scales)

    @property
    def blocks(self) -> nn.ModuleList:
        """The list itself. transformers 5 stores the blocks in the attribute `blocks`."""
        return self

    def forward(self, x: FeatureMap) -> list[FeatureMap]:
        """Returns one feature map per scale."""
        return [_resized(block(x), x) for block in self]


def _resized(x: FeatureMap, to: FeatureMap) -> FeatureMap:
    """Resizes a feature map to the rows and columns of another, with bilinear interpolation."""
    return F.interpolate(x, size=to.shape[2:], mode="bilinear", align_corners=False)


class BeitUperHead(PropertyModule):
    """Head of UPerNet: pyramid pooling, a top-down feature pyramid and a linear classifier of pixels."""

    psp_bottleneck = alias("bottleneck", "The convolution after pyramid pooling, under its name in transformers 5.")

    def __init__(self, config: BeitConfig):
        super().__init__()
        width = config.hidden_size
        self.classifier = nn.Conv2d(width, config.num_labels, kernel_size=1)
        self.psp_modules = BeitPyramidPoolingModule(config.pool_scales, width, width)
        self.bottleneck = BeitConvModule((1 + len(config.pool_scales)) * width, width, 3)
        self.lateral_convs = nn.ModuleList(BeitConvModule(width, width, 1) for _ in range(3))
        self.fpn_convs = nn.ModuleList(BeitConvModule(width, width, 3) for _ in range(3))
        self.fpn_bottleneck = BeitConvModule(4 * width, width, 3)

    def forward(self, encoder_hidden_states: Sequence[FeatureMap]) -> Float[Tensor, "b classes rows columns"]:
        """Returns the logits of every pixel of the largest feature map."""
        last = encoder_hidden_states[-1]
        pooled = self.bottleneck(torch.cat([last, *self.psp_modules(last)], dim=1))
        maps = [conv(each) for conv, each in zip(self.lateral_convs, encoder_hidden_states, strict=False)] + [pooled]
        for index in range(len(maps) - 1, 0, -1):
            maps[index - 1] = maps[index - 1] + _resized(maps[index], maps[index - 1])
        outputs = [conv(each) for conv, each in zip(self.fpn_convs, maps, strict=False)] + [maps[-1]]
        outputs = [outputs[0], *(_resized(each, outputs[0]) for each in outputs[1:])]
        return self.classifier(self.fpn_bottleneck(torch.cat(outputs, dim=1)))


class BeitFCNHead(nn.Module):
    """Auxiliary head: convolutions and a linear classifier of pixels, on the third feature map."""

    def __init__(self, config: BeitConfig):
        super().__init__()
        width, inner, count = config.hidden_size, config.auxiliary_channels, config.auxiliary_num_convs
        self.concat_input = config.auxiliary_concat_input
        widths = [width, *[inner] * count]
        self.convs = nn.Sequential(*(BeitConvModule(*pair, 3) for pair in pairwise(widths)))
        if self.concat_input:
            self.conv_cat = BeitConvModule(width + inner, inner, 3)
        self.classifier = nn.Conv2d(inner, config.num_labels, kernel_size=1)

    def forward(self, encoder_hidden_states: Sequence[FeatureMap]) -> Float[Tensor, "b classes rows columns"]:
        """Returns the logits of every pixel of the third feature map."""
        x = encoder_hidden_states[2]
        output = self.convs(x)
        if self.concat_input:
            output = self.conv_cat(torch.cat([x, output], dim=1))
        return self.classifier(output)


def _conv_names(v5: str, v4: str) -> dict[str, str]:
    """Returns the names of a `BeitConvModule` and its modules: v5 name to v4 name."""
    return {f"{v5}.convolution": f"{v4}.conv", f"{v5}.normalization": f"{v4}.bn", v5: v4}


class BeitForSemanticSegmentation(HeadModel, Pyramid):
    """BEiT with a UPerNet head, for semantic segmentation. Images may have any size.

    `config.out_indices` are the numbers of four layers, counted from 1. The feature maps are the inputs of these
    layers, as in transformers. Raises ValueError if there are not four numbers.
    """

    config_class: ClassVar[type[PretrainedConfig]] = BeitConfig
    base_model_prefix: ClassVar[str] = "beit"
    base_class = BeitModel
    _no_split_modules = BeitModel._no_split_modules
    _loss_function = staticmethod(segmentation_loss)
    names = Names(
        {
            "decode_head.psp_modules.blocks": "decode_head.psp_modules",
            **{name: name for name in ("decode_head.lateral_convs", "decode_head.fpn_convs", "auxiliary_head.convs")},
        },
        {
            # Not the name "conv" alone, which the modules of the other lists have in transformers 4.
            "conv.convolution": "1.conv",
            "conv.normalization": "1.bn",
            "convolution": "conv",
            "normalization": "bn",
        },
        {
            **_conv_names("decode_head.psp_bottleneck", "decode_head.bottleneck"),
            **_conv_names("decode_head.fpn_bottleneck", "decode_head.fpn_bottleneck"),
            **_conv_names("auxiliary_head.conv_cat", "auxiliary_head.conv_cat"),
            **PYRAMID,
        },
    )

    def __init__(self, config: BeitConfig):
        super().__init__(config)
        config = self.config
        self.num_labels = config.num_labels
        self.beit = BeitModel(config, add_pooling_layer=False)
        _check_stages(config, "BeitForSemanticSegmentation")
        self.add_pyramid(config.hidden_size)
        self.decode_head = BeitUperHead(config)
        self.auxiliary_head = BeitFCNHead(config) if config.use_auxiliary_head else None
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"] | None = None,
        labels: Int[Tensor, "b height width"] | None = None,
        interpolate_pos_encoding: bool | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Returns the logits (b, classes, rows, columns) and, if labels (class indices of pixels) are given, the loss.

        The logits have a quarter of the rows and columns of the image if the patch size is 16. Raises ValueError for
        labels of a model with one class.
        """
        if labels is not None and self.config.num_labels == 1:
            raise ValueError("The number of labels should be greater than one")
        pixels = need_pixels(pixel_values)
        outputs = self.beit(pixels, **{**options, "output_hidden_states": True, "return_dict": True})
        grid = self.beit.embeddings.grid_of(*pixels.shape[2:])
        states = [outputs.hidden_states[index - 1] for index in self.config.out_indices]
        maps = self.pyramid([state[:, 1:].transpose(1, 2).unflatten(2, grid) for state in states])
        logits = self.decode_head(maps)
        loss = None
        if labels is not None:
            auxiliary = None if self.auxiliary_head is None else self.auxiliary_head(maps)
            loss = self.loss_function(
                logits,
                labels,
                ignore_index=self.config.semantic_loss_ignore_index,
                auxiliary_logits=auxiliary,
                auxiliary_loss_weight=self.config.auxiliary_loss_weight,
            )
        output = SemanticSegmenterOutput(
            loss=loss,
            logits=logits,
            hidden_states=self.beit.chosen_states(outputs.hidden_states, options),
            attentions=outputs.attentions,
        )
        return finished(self, output, options)
