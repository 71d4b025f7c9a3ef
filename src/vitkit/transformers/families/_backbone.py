"""Backbones: models that return feature maps of chosen stages, and their configs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from vitkit.config import JsonDict
from vitkit.transformers.configuration import PretrainedConfig
from vitkit.transformers.families._base import EncoderModel
from vitkit.transformers.hub import Argument
from vitkit.transformers.pretrained import PreTrainedModel


@dataclass(init=False, eq=False, repr=False)
class BackboneConfig(PretrainedConfig):
    """Base class of backbone configs: the names of the stages, and the stages whose feature maps are returned.

    The stages are "stem" (the input of the first layer) and "stage1", "stage2", ... (the outputs of the layers).
    `out_features` are names of stages, `out_indices` their indices; each sets the other. Raises ValueError for stages
    that the model does not have.
    """

    def __init__(self, *args: Argument, **kwargs: Argument):
        features, indices = kwargs.pop("out_features", None), kwargs.pop("out_indices", None)
        kwargs.pop("stage_names", None)
        super().__init__(*args, **kwargs)
        self.stage_names = ["stem", *(f"stage{index}" for index in range(1, self._num_stages() + 1))]
        self._choose(features, indices)

    def _num_stages(self) -> int:
        settings: Any = self
        return settings.num_hidden_layers

    @property
    def out_features(self) -> list[str]:
        """Names of the stages whose feature maps are returned. The default is the last stage."""
        return self._out_features

    @out_features.setter
    def out_features(self, names: Sequence[str] | None) -> None:
        """Sets the stages by name."""
        self._choose(names, None)

    @property
    def out_indices(self) -> list[int]:
        """Indices of the stages whose feature maps are returned. "stem" has the index 0."""
        return self._out_indices

    @out_indices.setter
    def out_indices(self, indices: Sequence[int] | None) -> None:
        """Sets the stages by index. Negative indices count from the end."""
        self._choose(None, indices)

    def _choose(self, names: Sequence[str] | None, indices: Sequence[int] | None) -> None:
        known = self.stage_names
        if indices is not None and any(not -len(known) <= index < len(known) for index in indices):
            raise ValueError(f"out_indices must be valid indices for stage_names {known}, got {list(indices)}")
        if names is not None and any(name not in known for name in names):
            raise ValueError(f"out_features must be a subset of stage_names: {known} got {list(names)}")
        if names is None:
            chosen = [len(known) - 1] if indices is None else [index % len(known) for index in indices]
        else:
            chosen = [known.index(name) for name in names]
        for argument, values in (("out_features", names), ("out_indices", indices)):
            if values is not None and chosen != sorted(set(chosen)):
                raise ValueError(
                    f"{argument} must not contain any duplicates and must be in the same order as stage_names {known}, "
                    f"got {list(values)}"
                )
        if names is not None and indices is not None and chosen != [index % len(known) for index in indices]:
            raise ValueError(
                f"out_features {list(names)} and out_indices {list(indices)} should correspond to the same stages"
            )
        self._out_features = [known[index] for index in chosen]
        self._out_indices = chosen if indices is None else list(indices)

    def to_dict(self) -> JsonDict:
        """Returns all settings as a dict of JSON types."""
        data = super().to_dict()
        return data | {"out_features": data.pop("_out_features"), "out_indices": data.pop("_out_indices")}


class StageNames(PreTrainedModel):
    """Base class of backbones: names and widths of the stages."""

    # Attributes that detectors of transformers read.
    backbone_type: ClassVar[str] = "transformers"
    has_attentions: ClassVar[bool] = True

    def forward_with_filtered_kwargs(self, *args: Argument, **kwargs: Argument) -> Any:
        """Calls the backbone. `output_attentions` is dropped if the backbone has no attention."""
        if not self.has_attentions:
            kwargs.pop("output_attentions", None)
        return self(*args, **kwargs)

    @property
    def stage_names(self) -> list[str]:
        """Names of all stages."""
        return self.config.stage_names

    @property
    def out_features(self) -> list[str]:
        """Names of the stages whose feature maps are returned."""
        return self.config.out_features

    @out_features.setter
    def out_features(self, names: Sequence[str] | None) -> None:
        """Sets the stages by name."""
        self.config.out_features = names

    @property
    def out_indices(self) -> list[int]:
        """Indices of the stages whose feature maps are returned."""
        return self.config.out_indices

    @out_indices.setter
    def out_indices(self, indices: Sequence[int] | None) -> None:
        """Sets the stages by index."""
        self.config.out_indices = indices

    @property
    def num_features(self) -> list[int]:
        """Number of channels of each stage."""
        return [self.config.hidden_size] * len(self.stage_names)

    @property
    def out_feature_channels(self) -> dict[str, int]:
        """Number of channels of each stage, by name."""
        return dict(zip(self.stage_names, self.num_features, strict=True))

    @property
    def channels(self) -> list[int]:
        """Number of channels of each chosen stage."""
        return [self.out_feature_channels[name] for name in self.out_features]


class Backbone(EncoderModel, StageNames):
    """Base class of backbones with encoder layers."""

    def feature_maps(
        self, states: Sequence[Tensor], grid: tuple[int, int], special: int, norm: nn.Module
    ) -> tuple[Float[Tensor, "..."], ...]:
        """Returns the feature maps of the chosen stages, normalized if the config has `apply_layernorm=True`.

        `states` are the outputs of all stages, whose first `special` tokens are not patches. Without
        `config.reshape_hidden_states` the tokens are returned.
        """
        maps = []
        for name, state in zip(self.stage_names, states, strict=True):
            if name in self.out_features:
                tokens = norm(state) if getattr(self.config, "apply_layernorm", False) else state
                if self.config.reshape_hidden_states:
                    tokens = tokens[:, special:].transpose(1, 2).unflatten(2, grid).contiguous()
                maps.append(tokens)
        return tuple(maps)
