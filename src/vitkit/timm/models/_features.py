"""timm's feature extraction: block indices, `feature_info`, and the model wrapper of `features_only=True`."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vitkit.config import JsonDict

#: Indices of blocks (negative ones count from the end), the number of last blocks, or None for all.
Indices = int | Sequence[int] | None


def feature_take_indices(num_features: int, indices: Indices = None) -> tuple[list[int], int]:
    """Returns the indices of the chosen blocks, in the given order, and the largest index. None selects all blocks.

    Raises AssertionError for a block that does not exist.
    """
    if indices is None:
        indices = num_features
    if isinstance(indices, int):
        if not 0 < indices <= num_features:
            raise AssertionError(f"last-n ({indices}) is out of range (1 to {num_features})")
        return list(range(num_features - indices, num_features)), num_features - 1
    chosen = [index + num_features if index < 0 else index for index in indices]
    for given, index in zip(indices, chosen, strict=True):
        if not 0 <= index < num_features:
            raise AssertionError(f"feature index {given} is out of range (0 to {num_features - 1})")
    if not chosen:
        raise ValueError("indices is empty; pass the indices of blocks, or the number of last blocks")
    return chosen, max(chosen)


class FeatureInfo:
    """Channels, stride and module name of each block output. By default, methods return those of the chosen blocks."""

    def __init__(self, feature_info: list[JsonDict], out_indices: int | Sequence[int]):
        self.out_indices = tuple(range(-out_indices, 0)) if isinstance(out_indices, int) else tuple(out_indices)
        self.info = feature_info
        for index, info in enumerate(feature_info):
            info.setdefault("index", index)

    def from_other(self, out_indices: int | Sequence[int]) -> "FeatureInfo":
        """Returns a copy with other chosen blocks."""
        return FeatureInfo(copy.deepcopy(self.info), out_indices)

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """Returns the entry `key` of block `idx`. For several indices or None (the chosen blocks), returns a list."""
        if isinstance(idx, int):
            return self.info[idx][key]
        return [self.info[index][key] for index in (self.out_indices if idx is None else idx)]

    def get_dicts(self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None) -> Any:
        """Returns the entries of block `idx` as a dict. For several indices or None, returns a list of dicts."""

        def select(index: int) -> JsonDict:
            return self.info[index] if keys is None else {key: self.info[index][key] for key in keys}

        if isinstance(idx, int):
            return select(idx)
        return [select(index) for index in (self.out_indices if idx is None else idx)]

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        """Returns the number of channels of block outputs. `idx` is that of `get`."""
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        """Returns the stride of block outputs, in pixels. `idx` is that of `get`."""
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        """Returns the module names of blocks. `idx` is that of `get`."""
        return self.get("module", idx)

    def __getitem__(self, item: int) -> JsonDict:
        return self.info[item]

    def __len__(self) -> int:
        return len(self.info)


class FeatureGetterNet(nn.ModuleDict):
    """Wraps a model so that calling it returns the outputs of chosen blocks as a list of feature maps."""

    def __init__(
        self,
        model: nn.Module,
        out_indices: int | Sequence[int] = 4,
        output_fmt: str = "NCHW",
        norm: bool = False,
        prune: bool = True,
    ):
        super().__init__()
        inner: Any = model
        if prune:
            out_indices = inner.prune_intermediate_layers(out_indices, prune_norm=not norm)
        self.feature_info = FeatureInfo(inner.feature_info, out_indices)
        self.model = model
        self.out_indices = out_indices
        self.output_fmt = output_fmt
        self.norm = norm
        self.in_chans = inner.in_chans

    def forward(self, x: Tensor) -> list[Tensor]:
        """Returns one feature map per chosen block, in the order of the blocks."""
        inner: Any = self.model
        return inner.forward_intermediates(
            x, indices=self.out_indices, norm=self.norm, output_fmt=self.output_fmt, intermediates_only=True
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Enables or disables activation checkpointing of the model."""
        inner: Any = self.model
        inner.set_grad_checkpointing(enable)
