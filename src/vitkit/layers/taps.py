"""Collects the outputs of chosen blocks during a forward pass, for `Features.taps`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypedDict, Unpack

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers.features import Features

#: Indices of blocks (negative ones count from the end), or the number of last blocks.
Blocks = int | Sequence[int]


class TapOptions(TypedDict, total=False):
    """Keyword arguments of `Backbone.features` that are valid only together with `blocks`.

    `as_maps` returns feature maps (b, d, rows, columns) instead of tokens (b, n, d). `norm` applies the final norm to
    the outputs. `intermediates_only` stops after the last chosen block; the tokens are then the output of this block.
    """

    as_maps: bool
    norm: bool
    intermediates_only: bool


class Taps:
    """Collects the outputs of chosen blocks during one forward pass.

    `final_norm` maps the index and the output of a block to its normalized output. Raises ValueError for blocks that
    the model does not have.
    """

    def __init__(
        self,
        blocks: Blocks,
        depth: int,
        final_norm: Callable[[int, Tensor], Tensor],
        **options: Unpack[TapOptions],
    ):
        if unknown := set(options) - set(TapOptions.__annotations__):
            raise TypeError(f"unknown options {sorted(unknown)}; choose from {sorted(TapOptions.__annotations__)}")
        self.indices = block_indices(blocks, depth)
        self.options = options
        self.final_norm = final_norm
        self._outputs: dict[int, Tensor] = {}

    def add(self, index: int, output: Tensor) -> bool:
        """Stores the output of block `index` if it was chosen. Returns whether the forward pass can stop here."""
        if index in self.indices:
            self._outputs[index] = output
        return self.stops and index >= max(self.indices)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """The stored outputs, in the order in which the blocks were chosen."""
        return tuple(self._outputs[index] for index in self.indices)

    @property
    def stops(self) -> bool:
        """Whether the forward pass stops after the last chosen block."""
        return self.options.get("intermediates_only", False)

    def attach(self, features: Features) -> Features:
        """Returns `features` with the stored outputs as `taps`, in the order in which the blocks were chosen."""
        taps = tuple(self._finished(index, features) for index in self.indices)
        if self.stops:
            features = replace(features, tokens=_tokens(self._outputs[max(self.indices)]), earlier=None)
        return replace(features, taps=taps)

    def _finished(self, index: int, features: Features) -> Tensor:
        output = self._outputs[index]
        if self.options.get("norm", False):
            output = self.final_norm(index, output)
        if not self.options.get("as_maps", False):
            return _tokens(output)
        # The outputs of convolutional stages are maps.
        return output if output.ndim == 4 else features.with_tokens(output).map


def make_taps(
    blocks: Blocks | None, depth: int, final_norm: Callable[[int, Tensor], Tensor], **options: Unpack[TapOptions]
) -> Taps | None:
    """Returns `Taps` for one forward pass, or None if `blocks` is None. Options without `blocks` raise ValueError."""
    if blocks is None:
        if options:
            raise ValueError(
                f"{' and '.join(options)} can only be used with blocks, such as blocks=(2, 5) or blocks=4 (the last 4)"
            )
        return None
    return Taps(blocks, depth, final_norm, **options)


def block_indices(blocks: Blocks, depth: int) -> tuple[int, ...]:
    """Returns the indices (0 to depth - 1) of chosen blocks. Raises ValueError if a block does not exist."""
    if not depth:
        raise ValueError(
            "this model does not return the outputs of blocks; if it is an exported model, load its original checkpoint"
        )
    if isinstance(blocks, int):
        if not 1 <= blocks <= depth:
            raise ValueError(
                f"blocks={blocks} selects the last {blocks} blocks; it must be between 1 and the depth, {depth}"
            )
        return tuple(range(depth - blocks, depth))
    indices = tuple(int(block) for block in blocks)
    if not indices:
        raise ValueError("blocks is empty; pass the indices of blocks, or how many of the last blocks to use")
    for index in indices:
        if not -depth <= index < depth:
            last = depth - 1
            raise ValueError(f"there is no block {index}: this model has blocks 0 to {last}, or -{depth} to -1")
    return tuple(index % depth for index in indices)


def run_stages(
    x: Float[Tensor, "b c rows columns"], stages: nn.Sequential, taps: Taps | None
) -> Float[Tensor, "b d new_rows new_columns"]:
    """Runs a feature map through convolutional stages: all, or up to the last chosen one if `taps.stops` is True."""
    for index, stage in enumerate(stages):
        x = stage(x)
        if taps is not None and taps.add(index, x):
            break
    return x


def _tokens(output: Tensor) -> Float[Tensor, "b n d"]:
    return rearrange(output, "b d r c -> b (r c) d") if output.ndim == 4 else output
