"""ResNet v1.5 with the API and the module names of transformers, implemented with `vitkit.layers`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers import BatchNorm, plain_conv
from vitkit.transformers.activations import make_activation
from vitkit.transformers.arguments import selected_layers
from vitkit.transformers.configuration import PretrainedConfig
from vitkit.transformers.families._backbone import BackboneConfig, StageNames
from vitkit.transformers.families._base import Options, check_options, finished, need_pixels
from vitkit.transformers.hub import Argument
from vitkit.transformers.losses import classification_loss
from vitkit.transformers.outputs import (
    BackboneOutput,
    BaseModelOutputWithPoolingAndNoAttention,
    ImageClassifierOutputWithNoAttention,
    LayerOutputs,
)
from vitkit.transformers.pretrained import PreTrainedModel

LAYER_TYPES = ("basic", "bottleneck")
REDUCTION = 4


@dataclass(init=False, eq=False, repr=False)
class ResNetConfig(BackboneConfig):
    """Configuration of a ResNet, with the attribute names of transformers.

    Raises ValueError for a `layer_type` other than "basic" and "bottleneck".
    """

    model_type: ClassVar[str] = "resnet"
    layer_types: ClassVar[list[str]] = list(LAYER_TYPES)

    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    layer_type: str = "bottleneck"
    hidden_act: str = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False

    def __init__(self, *args: Argument, **kwargs: Argument):
        super().__init__(*args, **kwargs)
        if self.layer_type not in LAYER_TYPES:
            raise ValueError(f"layer_type={self.layer_type} is not one of {','.join(LAYER_TYPES)}")
        if len(self.depths) != len(self.hidden_sizes):
            raise ValueError(
                f"depths {list(self.depths)} and hidden_sizes {list(self.hidden_sizes)} must have the same length"
            )
        # Lists, as in transformers.
        self.update({"hidden_sizes": list(self.hidden_sizes), "depths": list(self.depths)})

    def _num_stages(self) -> int:
        return len(self.depths)


class ResNetConvLayer(nn.Module):
    """Convolution without bias, batch norm and an activation. `act` is None for no activation."""

    def __init__(self, in_width: int, width: int, kernel: int, stride: int, act: str | None, initial: float = 1.0):
        super().__init__()
        self.convolution = plain_conv(in_width, width, kernel, stride)
        self.normalization = BatchNorm(width, initial=initial)
        self.activation = nn.Identity() if act is None else make_activation(act)

    def forward(self, hidden_states: Float[Tensor, "b c rows columns"]) -> Float[Tensor, "b d rows2 columns2"]:
        """Returns the normalized and activated feature map."""
        return self.activation(self.normalization(self.convolution(hidden_states)))


class ResNetEmbeddings(nn.Module):
    """Stem: a 7x7 convolution and max-pooling, both with stride 2. Checks the number of channels."""

    def __init__(self, config: ResNetConfig):
        super().__init__()
        self.embedder = ResNetConvLayer(config.num_channels, config.embedding_size, 7, 2, config.hidden_act)
        self.pooler = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.num_channels = config.num_channels

    def forward(self, pixel_values: Float[Tensor, "b c height width"]) -> Float[Tensor, "b d rows columns"]:
        """Returns a feature map with a quarter of the height and width of the images."""
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.num_channels:
            raise ValueError(
                "Make sure that the channel dimension of the pixel values match with the one set in the configuration."
                f" Expected (batch, {self.num_channels}, height, width) but got {tuple(pixel_values.shape)}."
            )
        return self.pooler(self.embedder(pixel_values.to(self.embedder.convolution.weight.dtype)))


class ResNetShortCut(nn.Module):
    """Shortcut of a block that changes the size of the feature map: a 1x1 convolution and batch norm."""

    def __init__(self, in_width: int, width: int, stride: int):
        super().__init__()
        self.convolution = plain_conv(in_width, width, 1, stride)
        self.normalization = BatchNorm(width)

    def forward(self, hidden_states: Float[Tensor, "b c rows columns"]) -> Float[Tensor, "b d rows2 columns2"]:
        """Returns the output of the convolution and the batch norm."""
        return self.normalization(self.convolution(hidden_states))


class _ResidualLayer(nn.Module):
    """Residual block: convolutions, a shortcut that is added, and an activation."""

    def __init__(self, in_width: int, width: int, stride: int, act: str, convolutions: Iterator[nn.Module]):
        super().__init__()
        same = in_width == width and stride == 1
        self.shortcut = nn.Identity() if same else ResNetShortCut(in_width, width, stride)
        self.layer = nn.Sequential(*convolutions)
        self.activation = make_activation(act)

    def forward(self, hidden_state: Float[Tensor, "b c rows columns"]) -> Float[Tensor, "b d rows2 columns2"]:
        """Returns the output of the block."""
        return self.activation(self.shortcut(hidden_state) + self.layer(hidden_state))


class ResNetBasicLayer(_ResidualLayer):
    """Residual block of two 3x3 convolutions. The first convolution has the stride."""

    def __init__(self, config: ResNetConfig, in_width: int, width: int, stride: int):
        first = ResNetConvLayer(in_width, width, 3, stride, "relu")
        convolutions = iter([first, ResNetConvLayer(width, width, 3, 1, None)])
        super().__init__(in_width, width, stride, config.hidden_act, convolutions)


class ResNetBottleNeckLayer(_ResidualLayer):
    """Bottleneck block. The stride is in the 3x3 convolution, or with `downsample_in_bottleneck` in the first."""

    def __init__(self, config: ResNetConfig, in_width: int, width: int, stride: int):
        first, inner = (stride, 1) if config.downsample_in_bottleneck else (1, stride)
        reduced = width // REDUCTION
        convolutions = iter(
            [
                ResNetConvLayer(in_width, reduced, 1, first, "relu"),
                ResNetConvLayer(reduced, reduced, 3, inner, "relu"),
                ResNetConvLayer(reduced, width, 1, 1, None),
            ]
        )
        super().__init__(in_width, width, stride, config.hidden_act, convolutions)


class ResNetStage(nn.Module):
    """A stage of residual blocks. The first block changes the size of the feature map."""

    def __init__(self, config: ResNetConfig, stage: int):
        super().__init__()
        make = ResNetBottleNeckLayer if config.layer_type == "bottleneck" else ResNetBasicLayer
        width = config.hidden_sizes[stage]
        in_width = config.hidden_sizes[stage - 1] if stage else config.embedding_size
        stride = 2 if stage or config.downsample_in_first_stage else 1
        first = make(config, in_width, width, stride)
        self.layers = nn.Sequential(first, *(make(config, width, width, 1) for _ in range(config.depths[stage] - 1)))

    def forward(self, hidden_state: Float[Tensor, "b c rows columns"]) -> Float[Tensor, "b d rows2 columns2"]:
        """Returns the feature map after all blocks."""
        return self.layers(hidden_state)


class ResNetEncoder(nn.Module):
    """The stages of a ResNet."""

    def __init__(self, config: ResNetConfig):
        super().__init__()
        self.stages = nn.ModuleList(ResNetStage(config, stage) for stage in range(len(config.depths)))

    def forward(self, hidden_state: Float[Tensor, "b c rows columns"]) -> list[Tensor]:
        """Returns the input of every stage and the output of the last one."""
        states = [hidden_state]
        for stage in self.stages:
            states.append(stage(states[-1]))
        return states


class ResNetPreTrainedModel(PreTrainedModel):
    """Base class of the ResNet models."""

    config_class: ClassVar[type[PretrainedConfig]] = ResNetConfig
    base_model_prefix: ClassVar[str] = "resnet"
    supports_gradient_checkpointing: ClassVar[bool] = False
    _no_split_modules: ClassVar[list[str]] = ["ResNetConvLayer", "ResNetShortCut"]

    def _init_weights(self, module: nn.Module) -> None:
        """Initializes one module: convolutions from He normal (fan-out), others with the defaults of PyTorch."""
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear | nn.BatchNorm2d):
            module.reset_parameters()

    def get_input_embeddings(self) -> nn.Module:
        """Returns the first convolution."""
        return self.base_model.embedder.embedder.convolution

    def chosen_states(self, states: list[Tensor], options: Options) -> LayerOutputs:
        """Returns the hidden states that the options or the config select, or None if they select none."""
        check_options(options)
        chosen: Any = options.get("output_hidden_states")
        selection = self.config.output_hidden_states if chosen is None else chosen
        indices = selected_layers(selection, len(states), "output_hidden_states")
        return tuple(state if index in indices else None for index, state in enumerate(states)) if indices else None


class ResNetModel(ResNetPreTrainedModel):
    """ResNet without a head. Images may have any size."""

    def __init__(self, config: ResNetConfig):
        super().__init__(config)
        self.embedder = ResNetEmbeddings(self.config)
        self.encoder = ResNetEncoder(self.config)
        self.pooler = nn.AdaptiveAvgPool2d((1, 1))
        self.post_init()

    def forward(self, pixel_values: Float[Tensor, "b c height width"] | None = None, **options: Unpack[Options]) -> Any:
        """Returns the last feature map, its mean and the outputs of the selected stages."""
        states = self.encoder(self.embedder(need_pixels(pixel_values)))
        output = BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=states[-1],
            pooler_output=self.pooler(states[-1]),
            hidden_states=self.chosen_states(states, options),
        )
        return finished(self, output, options)


class ResNetForImageClassification(ResNetPreTrainedModel):
    """ResNet with a linear head on the mean of the last feature map."""

    _loss_function = staticmethod(classification_loss)

    def __init__(self, config: ResNetConfig):
        super().__init__(config)
        self.num_labels = self.config.num_labels
        self.resnet = ResNetModel(self.config)
        width, labels = self.config.hidden_sizes[-1], self.num_labels
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(width, labels) if labels > 0 else nn.Identity())
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"] | None = None,
        labels: Tensor | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Returns the logits (b, classes) and, if labels are given, the loss."""
        outputs = self.resnet(pixel_values, **{**options, "return_dict": True})
        logits = self.classifier(outputs.pooler_output)
        output = ImageClassifierOutputWithNoAttention(
            loss=None if labels is None else self.loss_function(labels, logits, self.config),
            logits=logits,
            hidden_states=outputs.hidden_states,
        )
        return finished(self, output, options)


class ResNetBackbone(ResNetPreTrainedModel, StageNames):
    """ResNet backbone. Returns the feature maps of the stages in `config.out_features`."""

    has_attentions: ClassVar[bool] = False

    def __init__(self, config: ResNetConfig):
        super().__init__(config)
        self.embedder = ResNetEmbeddings(self.config)
        self.encoder = ResNetEncoder(self.config)
        self.post_init()

    @property
    def num_features(self) -> list[int]:
        """Number of channels of each stage."""
        return [self.config.embedding_size, *self.config.hidden_sizes]

    def forward(self, pixel_values: Float[Tensor, "b c height width"] | None = None, **options: Unpack[Options]) -> Any:
        """Returns the feature maps (b, d, rows, columns) and the outputs of the selected stages."""
        states = self.encoder(self.embedder(need_pixels(pixel_values)))
        output = BackboneOutput(
            feature_maps=tuple(states[self.stage_names.index(name)] for name in self.out_features),
            hidden_states=self.chosen_states(states, options),
        )
        return finished(self, output, options)
