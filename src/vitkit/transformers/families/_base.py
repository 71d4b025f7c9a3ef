"""Base classes of the families: selection of layer outputs, image checks, embeddings and classification heads."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypedDict, Unpack

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vitkit.checkpoints.tensors import Info, Tensors
from vitkit.layers import Taps, check_axes, resize_positions
from vitkit.transformers.arguments import LayerSelection, attention_bias, head_masks, selected_layers
from vitkit.transformers.configuration import PretrainedConfig
from vitkit.transformers.embeddings import ViTPatchEmbeddings
from vitkit.transformers.families._layers import Encoder, LayerInput, V4Attention
from vitkit.transformers.losses import classification_loss
from vitkit.transformers.outputs import ImageClassifierOutput, LayerOutputs, ModelOutput
from vitkit.transformers.pretrained import PreTrainedModel


class Options(TypedDict, total=False):
    """Keyword arguments of every `forward`.

    attention_mask         (b, n) or broadcastable to (b, h, n, n); see `arguments.attention_bias`
    head_mask              see `arguments.head_masks`
    output_attentions      layers whose attention weights are returned: all or none, an index, or several
    output_hidden_states   layers whose outputs are returned; 0 is the input of the first layer
    return_dict            False returns a tuple
    num_items_in_batch     see `losses.classification_loss`
    """

    attention_mask: Tensor | None
    head_mask: Tensor | Sequence[Tensor | None] | None
    output_attentions: LayerSelection
    output_hidden_states: LayerSelection
    return_dict: bool | None
    num_items_in_batch: Tensor | int | None


def check_options(options: Mapping[str, object]) -> None:
    """Raises TypeError for keyword arguments that `forward` does not have.

    `interpolate_pos_encoding` is accepted without effect, because the models that get it here take images of any size.
    """
    if unknown := sorted(set(options) - {*Options.__annotations__, "interpolate_pos_encoding"}):
        known = ", ".join(Options.__annotations__)
        raise TypeError(f"forward() got an unexpected keyword argument '{unknown[0]}'; the options are {known}")


def finished(model: PreTrainedModel, output: ModelOutput, options: Options) -> Any:
    """Returns the output. Converts it to a tuple if `return_dict` is False in the options or the config."""
    chosen = options.get("return_dict")
    return output if (model.config.return_dict if chosen is None else chosen) else output.to_tuple()


class EncoderModel(PreTrainedModel):
    """Base class of models without a head: embeddings, encoder layers and a final LayerNorm.

    Parameter names are those of transformers 4; `names` maps the names of transformers 5 to them.
    """

    def __init__(self, config: PretrainedConfig):
        super().__init__(config)
        self.register_load_state_dict_pre_hook(_arrange)

    @property
    def encoder_layers(self) -> nn.ModuleList:
        """The encoder layers in order."""
        encoder = self.get_submodule("encoder")
        assert isinstance(encoder, Encoder), "every family but DINOv3 has an encoder"
        return encoder.layer

    @property
    def layers(self) -> nn.ModuleList:
        """The encoder layers, under their name in transformers 5."""
        return self.encoder_layers

    @layers.setter
    def layers(self, layers: nn.ModuleList) -> None:
        """Replaces the layers."""
        self.get_submodule("encoder").layer = layers

    def attention_of(self, layer: int) -> Any:
        """Returns the attention module of a layer. Raises ValueError if its heads cannot be pruned."""
        attention = self.encoder_layers[layer].attention
        return attention if isinstance(attention, V4Attention) else super().attention_of(layer)

    def run_layers(
        self, tokens: Float[Tensor, "b n d"], inputs: Iterable[LayerInput], taps: Taps | None
    ) -> Float[Tensor, "b n d"]:
        """Runs the tokens through all layers."""
        return self.get_submodule("encoder")(tokens, inputs, taps)

    def encode(
        self, tokens: Float[Tensor, "b n d"], options: Options, positions: Sequence[LayerInput] | None = None
    ) -> tuple[Float[Tensor, "b n d"], LayerOutputs, LayerOutputs]:
        """Applies all layers. Returns the tokens, the selected hidden states and the selected attention weights.

        `positions` are the positional inputs of the layers.
        """
        check_options(options)
        depth = len(self.encoder_layers)
        states_of = self._selection(options, "output_hidden_states", depth + 1)
        weights_of = self._selection(options, "output_attentions", depth)
        bias = attention_bias(options.get("attention_mask"), tokens.dtype, tokens.shape[1])
        masks = head_masks(options.get("head_mask"), self.config, tokens.dtype)
        records: list[list[Tensor]] = [[] for _ in range(depth)]
        inputs = []
        for index, position in enumerate(positions or [LayerInput()] * depth):
            total = position.bias if bias is None else bias if position.bias is None else bias + position.bias
            record = records[index] if index in weights_of else None
            inputs.append(replace(position, bias=total, head_mask=masks[index], record=record))
        taps = Taps(range(depth), depth, lambda _, x: x) if states_of else None
        encoded = self.run_layers(tokens, inputs, taps)
        states = (tokens, *taps.outputs) if taps is not None else ()
        hidden = tuple(state if index in states_of else None for index, state in enumerate(states)) or None
        weights = tuple(record[0] if record else None for record in records) if weights_of else None
        return encoded, hidden, weights

    def _selection(self, options: Options, name: str, count: int) -> frozenset[int]:
        chosen = options.get(name)
        return selected_layers(getattr(self.config, name) if chosen is None else chosen, count, name)  # type: ignore[arg-type]

    def chosen_states(self, states: LayerOutputs, options: Options) -> LayerOutputs:
        """Returns the hidden states that the options select, or None if they select none."""
        assert states is not None, "all hidden states were computed"
        chosen = self._selection(options, "output_hidden_states", len(states))
        return tuple(state if index in chosen else None for index, state in enumerate(states)) if chosen else None


def _arrange(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Pre-hook of `load_state_dict` that applies `arrange`."""
    assert isinstance(module, PreTrainedModel)
    infos = {name: Info(tuple(tensor.shape), tensor.dtype) for name, tensor in state_dict.items()}
    arranged = module.arrange(Tensors(infos, state_dict.__getitem__))
    if set(arranged.infos) != set(state_dict):
        tensors = {name: arranged.read(name) for name in arranged.infos}
        state_dict.clear()
        state_dict.update(tensors)


class HeadModel(PreTrainedModel):
    """Base class of models with a head. The base model converts its own parameter names."""

    base_class: ClassVar[type[EncoderModel]]

    def __init__(self, config: PretrainedConfig):
        super().__init__(config)
        self.register_load_state_dict_pre_hook(_arrange)

    @classmethod
    def arrange(cls, tensors: Tensors) -> Tensors:
        """Converts loaded tensors whose layout differs from that of the parameters."""
        return cls.base_class.arrange(tensors)

    @classmethod
    def own_name(cls, name: str) -> str:
        """Converts a parameter name of transformers 5, of the head or of the base model, to transformers 4."""
        return cls.base_class.own_name(cls.names.to_v4(name))


class Embeddings(nn.Module):
    """Patch embeddings, special tokens, the mask token and position embeddings.

    `special` names the special tokens that have a position, `registers` is the number of register tokens, which have
    none. `mask_token` is the shape of the mask token, None for none.
    """

    cls_token: nn.Parameter

    def __init__(
        self,
        config: PretrainedConfig,
        *,
        special: Sequence[str] = ("cls_token",),
        registers: int | None = None,
        mask_token: tuple[int, ...] | None = None,
        positions: bool = True,
        method: str = "bicubic",
    ):
        super().__init__()
        self.config: Any = config
        self.special, self.method = tuple(special), method
        width = self.config.hidden_size
        for name in special:
            self.register_parameter(name, nn.Parameter(torch.zeros(1, 1, width)))
        self.mask_token = None if mask_token is None else nn.Parameter(torch.zeros(mask_token))
        if registers is not None:
            self.register_tokens = nn.Parameter(torch.zeros(1, registers, width))
        self.patch_embeddings = ViTPatchEmbeddings(config)  # type: ignore[arg-type]
        rows = len(self.special) + self.patch_embeddings.num_patches
        self.position_embeddings = nn.Parameter(torch.zeros(1, rows, width)) if positions else None
        self.dropout = nn.Dropout(self.config.hidden_dropout_prob)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Returns the number of rows and columns of patches for an image size in pixels."""
        rows, columns = self.patch_embeddings.patch_size
        return height // rows, width // columns

    def positions(self, height: int, width: int) -> Float[Tensor, "1 rows d"] | None:
        """Returns the position embeddings for an image size in pixels."""
        if self.position_embeddings is None:
            return None
        native, grid = self.patch_embeddings.grid, self.grid_of(height, width)
        return resize_positions(self.position_embeddings[0], native, grid, self.method, special=len(self.special))[None]

    def patches(
        self, pixel_values: Float[Tensor, "b c height width"], interpolate_pos_encoding: bool | None
    ) -> Float[Tensor, "b p d"]:
        """Returns the patch embeddings without positions. Raises ValueError for an unsupported image size."""
        check_axes(pixel_values)
        dtype = self.patch_embeddings.projection.weight.dtype
        return self.patch_embeddings(pixel_values.to(dtype), interpolate_pos_encoding)

    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"],
        bool_masked_pos: Shaped[Tensor, "b p"] | None = None,
        interpolate_pos_encoding: bool | None = True,
    ) -> Float[Tensor, "b n d"]:
        """Returns the tokens that are the input of the first layer: special tokens, registers, then patches."""
        patches = self.patches(pixel_values, interpolate_pos_encoding)
        if bool_masked_pos is not None:
            patches = masked(patches, bool_masked_pos, self.mask_token)
        # Not `get_parameter`: `torch.func.functional_call` replaces parameters by other tensors.
        first = [getattr(self, name) for name in self.special]
        positions = self.positions(*pixel_values.shape[2:])
        if positions is not None:
            first = [token + positions[:, row : row + 1] for row, token in enumerate(first)]
            patches = patches + positions[:, len(first) :]
        if hasattr(self, "register_tokens"):
            first.append(self.register_tokens)
        # Each token by itself: gradients that are slices of a tensor make DDP warn about their strides.
        return self.dropout(torch.cat([*(token.expand(patches.shape[0], -1, -1) for token in first), patches], dim=1))


def masked(
    patches: Float[Tensor, "b p d"], mask: Shaped[Tensor, "b p"], mask_token: Float[Tensor, "..."] | None
) -> Float[Tensor, "b p d"]:
    """Replaces masked patches with the mask token. Raises ValueError if the mask has the wrong shape."""
    if mask_token is None:
        raise ValueError("bool_masked_pos needs a mask token; create the model with use_mask_token=True")
    if mask.shape != patches.shape[:2]:
        raise ValueError(f"bool_masked_pos has shape {tuple(mask.shape)}; expected {tuple(patches.shape[:2])}")
    keep = rearrange(1.0 - mask.to(patches.dtype), "b p -> b p 1")
    return patches * keep + mask_token.to(patches.dtype) * (1.0 - keep)


class Classifier(HeadModel):
    """Base class of image classifiers. A subclass stores the model and defines `pooled`."""

    accepts_loss_kwargs: ClassVar[bool] = True
    _loss_function: Callable[..., Tensor] = staticmethod(classification_loss)
    # Width of the pooled features, in units of the hidden size.
    pooled_widths: ClassVar[int] = 1

    def __init__(self, config: PretrainedConfig):
        super().__init__(config)
        self.num_labels = self.config.num_labels
        self.add_module(self.base_model_prefix, self.make_base())
        width = self.pooled_widths * self.config.hidden_size
        self.classifier = nn.Linear(width, self.num_labels) if self.num_labels > 0 else nn.Identity()
        self.post_init()

    def make_base(self) -> EncoderModel:
        """Creates the model without a head."""
        return self.base_class(self.config)

    def pooled(self, outputs: Any) -> Float[Tensor, "b d"]:
        """Returns the input of the classifier: the class token."""
        return outputs.last_hidden_state[:, 0]

    def classify(self, outputs: Any, labels: Tensor | None, options: Options) -> Any:
        """Returns the logits and, if labels are given, the loss."""
        logits = self.classifier(self.pooled(outputs))
        loss = None
        if labels is not None:
            items = options.get("num_items_in_batch")
            extra = {} if items is None else {"num_items_in_batch": items}
            loss = self.loss_function(labels, logits, self.config, **extra)
        output = ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
        return finished(self, output, options)


class SizedClassifier(Classifier):
    """Base class of classifiers that need `interpolate_pos_encoding=True` unless images have the configured size."""

    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"] | None = None,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Returns the logits (b, classes) and, if labels are given, the loss."""
        outputs = self.base_model(
            pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **{**options, "return_dict": True}
        )
        return self.classify(outputs, labels, options)


class AnySizeClassifier(Classifier):
    """Base class of classifiers that accept images of any size."""

    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"] | None = None,
        labels: Tensor | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Returns the logits (b, classes) and, if labels are given, the loss."""
        outputs = self.base_model(pixel_values, **{**options, "return_dict": True})
        return self.classify(outputs, labels, options)


def need_pixels(pixel_values: Tensor | None) -> Tensor:
    """Returns the pixels. Raises ValueError if they are None."""
    if pixel_values is None:
        raise ValueError("You have to specify pixel_values")
    return pixel_values


def init_normal(std: float, *tensors: Tensor | None) -> None:
    """Initializes tensors from a truncated normal distribution. Tensors that are None are ignored."""
    for tensor in tensors:
        if tensor is not None:
            nn.init.trunc_normal_(tensor, std=std)


def init_zeros(*tensors: Tensor | None) -> None:
    """Initializes tensors with zeros. Tensors that are None are ignored."""
    for tensor in tensors:
        if tensor is not None:
            nn.init.zeros_(tensor)
