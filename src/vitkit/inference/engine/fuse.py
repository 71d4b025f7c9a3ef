"""A copy of a model with every part that is known here replaced by its fast form; the model itself stays as it is."""

import copy
import math
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.inference.engine.blocks import FusedAttention, FusedBlock, FusedMLP, Way, gamma_of, is_plain
from vitkit.inference.engine.dense import Dense, Float8Dense, PatchDense, fits, fused_name
from vitkit.inference.engine.merging import Merging
from vitkit.inference.engine.quantization import QuantisedDense, Range
from vitkit.layers import MLP, Attention, BatchNorm, Block, PatchEmbed, StdConv, SwiGLU, pad_same
from vitkit.models import Backbone, TokenBackbone, _pooling


@dataclass(frozen=True)
class Recipe:
    """How the parts are made: `dtype` of the tokens, `inner` of attention's heads, `packed` products, `way` to attend.

    `mixed` norms keep float32 numbers of their own. `depth` blocks, of which the last gives only the `keep` first
    tokens, or all (None); `merging` is shared by them. `ranges` are those of the inputs of 8-bit layers by name, none
    for no such layers; `float8` has the layers of attention and MLPs in 8-bit floating numbers.
    """

    dtype: torch.dtype
    inner: torch.dtype
    packed: bool
    way: Way
    mixed: bool
    depth: int = 0
    keep: int | None = None
    merging: Merging | None = None
    ranges: dict[str, Range] = field(default_factory=dict)
    float8: bool = False

    def make(self, prefix: str, name: str, weight: Tensor, bias: Tensor | None, act: str = "") -> nn.Module:
        """The dense layer `prefix.name`."""
        place = f"{prefix}.{name}"
        if self.float8 and prefix.endswith((".attn", ".mlp")) and fits(weight):
            return Float8Dense(weight, bias, dtype=self.inner, act=act)
        if place not in self.ranges:
            return Dense(weight, bias, dtype=self.inner, packed=self.packed, act=act)
        dtype = self.inner if name in ("qkv", "query", "key_value", "value") else self.dtype
        # What an activation gives goes straight into the next product (a gated one is multiplied first).
        to = self.ranges.get(f"{prefix}.fc2") if name == "fc1" and f"{prefix}.value" not in self.ranges else None
        return QuantisedDense(weight, bias, taken=self.ranges[place], dtype=dtype, act=act, to=to)


class FoldedConv(nn.Module):
    """`StdConv` whose filters are standardised once."""

    def __init__(self, convolution: StdConv, dtype: torch.dtype):
        super().__init__()
        self.kernel, self.stride = convolution.kernel_size[0], convolution.stride[0]
        self.same = convolution.same
        self.padding = convolution.padding
        self.weight = nn.Parameter(convolution.standardized_weight().to(dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """The convolved map."""
        x = x.to(self.weight.dtype)
        x = pad_same(x, self.kernel, self.stride) if self.same else x
        return F.conv2d(x, self.weight, stride=self.stride, padding=self.padding)


def fused(model: Backbone, recipe: Recipe) -> Backbone:
    """The fast copy of a model, in evaluation mode; it cannot be trained, saved or moved.

    Raises ValueError where tokens are to be merged and the model is not made of plain blocks.
    """
    network = copy.deepcopy(model).eval().requires_grad_(False)
    if recipe.merging is not None and not mergeable(network):
        raise ValueError("tokens can be merged in plain encoder blocks with positions added before the first one only")
    with torch.no_grad():
        for number, block in enumerate(network.blocks):
            if is_plain(block) and isinstance(block, Block):
                network.blocks[number] = _block(block, number, recipe)
        _replace(network, "", recipe)
        _convert(network, recipe)
    return network


def mergeable(model: nn.Module) -> bool:
    """Whether all of a model is plain encoder blocks, and no position is told to any but the first."""
    if not isinstance(model, TokenBackbone) or getattr(model.config, "position_at", "stem") != "stem":
        return False
    return all(isinstance(block, FusedBlock) or is_plain(block) for block in model.blocks)


def special_read(model: Backbone, images: Tensor) -> int | None:
    """How many special tokens there are if they are all that the head reads; None where it reads patches too.

    Found by asking: with every patch not a number, the answer still is one. All blocks must be plain.
    """
    if not isinstance(model, TokenBackbone) or not all(is_plain(block) for block in model.blocks):
        return None
    with torch.inference_mode():
        embedded = model.embed(images[:1])
        tokens = torch.full_like(embedded.tokens, math.nan)
        tokens[:, : embedded.num_special] = embedded.special
        earlier = _pooling.blocks(model.config) - 1
        features = replace(embedded, tokens=tokens, earlier=tokens[:, :1].repeat(1, earlier, 1) if earlier else None)
        answers = (model.represent(features), model.logits(features))
    finite = embedded.num_special > 0 and all(bool(answer.isfinite().all()) for answer in answers)
    return embedded.num_special if finite else None


def _replace(parent: nn.Module, path: str, recipe: Recipe) -> None:
    for name, child in list(parent.named_children()):
        place = f"{path}.{name}" if path else name
        if isinstance(child, FusedBlock):
            continue
        found = _fast(child, parent, place, recipe)
        if found is None:
            _replace(child, place, recipe)
        else:
            setattr(parent, name, found)


def _fast(module: nn.Module, parent: nn.Module, place: str, recipe: Recipe) -> nn.Module | None:
    """The fast form of one module; None where there is none of the whole."""
    make = partial(recipe.make, place)
    if type(module) is Attention:
        return FusedAttention(module, make, recipe.way)
    if type(module) is SwiGLU or (type(module) is MLP and fused_name(module.act) is not None):
        return FusedMLP(module, make)
    if isinstance(module, StdConv):
        return FoldedConv(module, recipe.dtype)
    if isinstance(parent, PatchEmbed) and isinstance(module, nn.Conv2d) and _sees_once(module):
        return PatchDense(module, make, recipe.inner)
    if type(module) is nn.Linear:
        # The head and what is before it: little work, and logits that float32 tells apart.
        return Dense(module.weight, module.bias, dtype=torch.float32, packed=recipe.packed)
    return None


def _sees_once(convolution: nn.Conv2d) -> bool:
    """Whether every pixel is under one place of the kernel."""
    return (
        convolution.stride == convolution.kernel_size
        and convolution.padding in (0, (0, 0))
        and convolution.dilation == (1, 1)
        and convolution.groups == 1
    )


def _block(block: Block, index: int, recipe: Recipe) -> FusedBlock:
    place = f"blocks.{index}"
    last = index == recipe.depth - 1
    attention = FusedAttention(
        block.attn,
        partial(recipe.make, f"{place}.attn"),
        recipe.way,
        gamma=gamma_of(block.ls1),
        keep=recipe.keep if last else None,
    )
    if not isinstance(block.mlp, MLP | SwiGLU):
        raise TypeError(f"a block with the MLP {type(block.mlp).__name__} is not plain")
    mlp = FusedMLP(block.mlp, partial(recipe.make, f"{place}.mlp"), gamma=gamma_of(block.ls2))
    return FusedBlock(block, attention, mlp, index, merging=recipe.merging, last=last)


def _convert(network: nn.Module, recipe: Recipe) -> None:
    """What is left, special tokens and tables above all, to the type of the tokens; norms stay where they may."""
    for module in network.modules():
        if recipe.mixed and isinstance(module, nn.LayerNorm | nn.GroupNorm | BatchNorm):
            continue
        for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(recipe.dtype)
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(_as_weight)


def _as_weight(module: nn.Conv2d, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Pictures come in as float32; whichever convolution is the first reads them in its own type."""
    return (arguments[0].to(module.weight.dtype), *arguments[1:])
