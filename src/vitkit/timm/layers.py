"""timm's layers of a ViT, with timm's arguments and module names, computed by `vitkit.layers`.

Linear layers, norms, dropout and stochastic depth are children that can be hooked, replaced, frozen or cast.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from vitkit import layers
from vitkit.layers import activation, attention_weights
from vitkit.layers.activations import activation_name, names_in
from vitkit.layers.channels import as_input
from vitkit.layers.patches import resize_kernel

__all__ = [
    "Attention",
    "DropPath",
    "GluMlp",
    "HybridEmbed",
    "LayerScale",
    "Mlp",
    "PatchDropout",
    "PatchEmbed",
    "SwiGLU",
    "act_name",
    "norm_eps",
    "resample_patch_embed",
    "to_2tuple",
    "trunc_normal_",
]

#: A norm or activation: its name in timm, a class, or a function that returns the module.
LayerType = str | Callable[..., nn.Module]


def hide(module: nn.Module, *names: str) -> None:
    """Turns children that timm's module does not have into plain attributes. Names that are no children are ignored."""
    for name in names:
        if name in module._modules:
            object.__setattr__(module, name, module._modules.pop(name))


def move_first(module: nn.Module, *names: str) -> None:
    """Moves children or parameters to the front, in the given order, which is that of timm's state dicts."""
    for entries in (module._modules, module._parameters):
        for name in (*names, *(name for name in list(entries) if name not in names)):
            if name in entries:
                entries[name] = entries.pop(name)  # type: ignore[assignment]


def to_2tuple(size: Any) -> tuple[Any, Any]:
    """Returns a size as a pair: one value is repeated, a pair is returned as a tuple."""
    if isinstance(size, Iterable) and not isinstance(size, str):
        first, second = size
        return first, second
    return size, size


def norm_eps(norm_layer: LayerType | None, default: float = 1e-6) -> float:
    """Returns the epsilon of timm's `norm_layer`. Raises ValueError if it is not a LayerNorm."""
    if norm_layer is None or (isinstance(norm_layer, str) and norm_layer.lower() == "layernorm"):
        return default
    norm = None if isinstance(norm_layer, str) else norm_layer(8)
    if not isinstance(norm, nn.LayerNorm) or norm.weight is None:
        raise ValueError(f"norm_layer is {norm_layer!r}; vitkit's ViTs have nn.LayerNorm, also with another eps")
    return norm.eps


def act_name(act_layer: LayerType | None) -> Any:
    """Returns the name in vitkit of timm's `act_layer`. Raises ValueError for an unsupported activation."""
    if act_layer is None:
        return "gelu"
    known = names_in("timm")
    name = known.get(act_layer) if isinstance(act_layer, str) else activation_name(act_layer())
    if name is None:
        raise ValueError(f"act_layer is {act_layer!r}; expected one of {', '.join(known)}, or its torch class")
    return name


def resample_patch_embed(
    patch_embed: Tensor, new_size: tuple[int, int], interpolation: str = "bicubic", antialias: bool = True
) -> Tensor:
    """Resizes a patch projection (d, c, h, w) to another patch size, as timm does by default (FlexiViT's PI-resize)."""
    if tuple(new_size) == tuple(patch_embed.shape[2:]):
        return patch_embed

    def matrix(old: int, new: int) -> Tensor:
        unit = torch.eye(old, dtype=torch.float64)[:, None, :, None]
        resized = F.interpolate(unit, size=(new, 1), mode=interpolation, antialias=antialias, align_corners=False)
        return torch.linalg.pinv(resized[:, 0, :, 0])

    return resize_kernel(patch_embed, *(matrix(*each) for each in zip(patch_embed.shape[2:], new_size, strict=True)))


class LayerScale(layers.LayerScale):
    """Trainable scale for each channel of a residual branch."""

    def __init__(self, dim: int, init_values: float = 1e-5):
        super().__init__(dim, init_values)


class DropPath(layers.DropPath):
    """Stochastic depth. `drop_prob` is the probability that a residual branch is dropped for an image."""

    def __init__(self, drop_prob: float = 0.0):
        super().__init__(drop_prob)

    @property
    def drop_prob(self) -> float:
        """The probability that a residual branch is dropped, which can be set."""
        return self.rate

    @drop_prob.setter
    def drop_prob(self, value: float) -> None:
        self.rate = value


class PatchDropout(nn.Module):
    """Drops random patch tokens in training. `prob` is the fraction of dropped patches."""

    def __init__(self, prob: float = 0.5, num_prefix_tokens: int = 1):
        super().__init__()
        self.prob = prob
        self.num_prefix_tokens = num_prefix_tokens

    def forward(self, x: Tensor) -> Tensor:
        """Returns the special tokens and the kept patch tokens, in random order as in timm."""
        if not self.training or not self.prob:
            return x
        special, patches = x.tensor_split([self.num_prefix_tokens], dim=1)
        count = max(1, int(patches.shape[1] * (1.0 - self.prob)))
        kept = torch.randn(patches.shape[:2], device=x.device).argsort(dim=-1)[:, :count]
        return torch.cat([special, patches.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))], dim=1)


class PatchEmbed(layers.PatchEmbed):
    """Patch embedding that returns tokens (b, n, d), or a map (b, rows, columns, d) with `output_fmt="NHWC"`.

    Raises AssertionError for an image of another size than `img_size` if `strict_img_size`, and otherwise for a size
    that is not a multiple of the patch size. `dynamic_img_pad` pads such images with zeros.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] | None = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        norm_layer: Callable[[int], nn.Module] | None = None,
        flatten: bool = True,
        output_fmt: str | None = None,
        *,
        bias: bool = True,
        strict_img_size: bool = True,
        dynamic_img_pad: bool = False,
    ):
        super().__init__(in_chans, embed_dim, to_2tuple(patch_size))
        hide(self, "backbone")
        self.img_size = None if img_size is None else to_2tuple(img_size)
        self.flatten = flatten and output_fmt is None
        self.output_fmt = output_fmt or "NCHW"
        self.strict_img_size = strict_img_size
        self.dynamic_img_pad = dynamic_img_pad
        if not bias:
            self.proj = nn.Conv2d(in_chans, embed_dim, self.patch_size, self.patch_size, bias=False)
        self.norm = nn.Identity() if norm_layer is None else norm_layer(embed_dim)

    @property
    def grid_size(self) -> tuple[int, int] | None:
        """Rows and columns of patches at `img_size`."""
        return None if self.img_size is None else self.dynamic_feat_size(self.img_size, padded=False)

    @property
    def num_patches(self) -> int | None:
        """Number of patches at `img_size`."""
        return None if self.grid_size is None else math.prod(self.grid_size)

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Returns the stride of the patches in pixels."""
        return max(self.patch_size) if as_scalar else self.patch_size

    def dynamic_feat_size(self, img_size: tuple[int, int], padded: bool | None = None) -> tuple[int, int]:
        """Returns rows and columns of patches of an image of (height, width) pixels."""
        up = self.dynamic_img_pad if padded is None else padded
        rows, columns = (-(-s // p) if up else s // p for s, p in zip(img_size, self.patch_size, strict=True))
        return rows, columns

    def forward(self, x: Tensor, patch_size: tuple[int, int] | None = None) -> Tensor:
        """Returns the tokens of the images."""
        self.check_size(x)
        if self.dynamic_img_pad:
            rows, columns = (-side % patch for side, patch in zip(x.shape[2:], self.patch_size, strict=True))
            x = F.pad(x, (0, columns, 0, rows))
        x = self.proj(as_input(x, self.channels, self.proj))
        if self.flatten:
            x = rearrange(x, "b d r c -> b (r c) d")
        elif self.output_fmt == "NHWC":
            x = rearrange(x, "b d r c -> b r c d")
        return self.norm(x)

    def check_size(self, x: Tensor) -> None:
        """Raises AssertionError for images of an unsupported size."""
        if self.img_size is None or x.ndim != 4:
            return
        for name, side, native, patch in zip(
            ("height", "width"), x.shape[2:], self.img_size, self.patch_size, strict=True
        ):
            if self.strict_img_size and side != native:
                raise AssertionError(
                    f"Input {name} ({side}) doesn't match model ({native}); create the model with img_size={side} or "
                    "dynamic_img_size=True, or call set_input_size"
                )
            if not self.strict_img_size and not self.dynamic_img_pad and side % patch:
                raise AssertionError(
                    f"Input {name} ({side}) should be divisible by patch size ({patch}), or set dynamic_img_pad=True"
                )

    def resize(self, patch_size: tuple[int, int]) -> None:
        """Resizes the projection to another patch size with `resample_patch_embed`."""
        weight = resample_patch_embed(self.proj.weight.detach(), patch_size).clone()
        self.proj.weight = nn.Parameter(weight, self.proj.weight.requires_grad)
        self.patch_size = self.proj.kernel_size = self.proj.stride = patch_size


class HybridEmbed(layers.PatchEmbed):
    """Patch embedding of a hybrid ViT: the feature map of `backbone`, cut into patches and projected.

    `feature_ratio` is the stride of the backbone. Sizes are not checked, as in timm.
    """

    def __init__(
        self,
        backbone: nn.Module,
        img_size: tuple[int, int],
        patch_size: tuple[int, int],
        *,
        feature_dim: int,
        feature_ratio: int,
        embed_dim: int,
        in_chans: int,
        output_fmt: str | None = None,
    ):
        super().__init__(feature_dim, embed_dim, patch_size, backbone=backbone)
        self.in_chans = in_chans
        self.img_size = img_size
        self.feature_dim = feature_dim
        self.feature_ratio = (feature_ratio, feature_ratio)
        self.output_fmt = output_fmt or "NCHW"
        self.flatten = output_fmt is None

    @property
    def feature_size(self) -> tuple[int, int]:
        """Rows and columns of the backbone's feature map at `img_size`. The backbone rounds up."""
        rows, columns = (-(-side // ratio) for side, ratio in zip(self.img_size, self.feature_ratio, strict=True))
        return rows, columns

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches at `img_size`."""
        rows, columns = (side // patch for side, patch in zip(self.feature_size, self.patch_size, strict=True))
        return rows, columns

    @property
    def num_patches(self) -> int:
        """Number of patches at `img_size`."""
        return math.prod(self.grid_size)

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Returns the stride of the patches in pixels."""
        rows, columns = (r * p for r, p in zip(self.feature_ratio, self.patch_size, strict=True))
        return max(rows, columns) if as_scalar else (rows, columns)

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Returns rows and columns of patches of an image of (height, width) pixels."""
        sides = zip(img_size, self.feature_ratio, self.patch_size, strict=True)
        rows, columns = (-(-side // ratio) // patch for side, ratio, patch in sides)
        return rows, columns

    def forward(self, x: Tensor, patch_size: tuple[int, int] | None = None) -> Tensor:
        """Returns the tokens of the images."""
        x = super().forward(x)
        return rearrange(x, "b d r c -> b (r c) d" if self.flatten else "b d r c -> b r c d")


class Mlp(layers.MLP):
    """MLP with two linear layers, an activation and dropout."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        act_layer: LayerType | None = None,
        *,
        drop: float = 0.0,
    ):
        super().__init__(in_features, hidden_features or in_features, act=act_name(act_layer))
        del self.dropout
        self.drop1 = nn.Dropout(drop)
        self.norm = nn.Identity()
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the MLP to each token."""
        return self.drop2(self.fc2(self.norm(self.drop1(self.act(self.fc1(x))))))


class GluMlp(layers.SwiGLU):
    """SwiGLU MLP with one matrix for gate and value ("SwiGLUPacked"). `hidden_features` counts both."""

    def __init__(self, in_features: int, hidden_features: int, *, drop: float = 0.0):
        super().__init__(in_features, hidden_features // 2)
        del self.dropout
        self.act = activation("silu")
        self.drop1 = nn.Dropout(drop)
        self.norm = nn.Identity()
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the MLP to each token."""
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.drop2(self.fc2(self.norm(self.drop1(self.act(gate) * value))))


class SwiGLU(nn.Module):
    """SwiGLU MLP with separate matrices for gate and value, whose width is rounded up to a multiple of `align_to`."""

    def __init__(self, in_features: int, hidden_features: int, *, drop: float = 0.0, align_to: int = 0):
        super().__init__()
        hidden_features += -hidden_features % align_to if align_to else 0
        self.fc1_g = nn.Linear(in_features, hidden_features)
        self.fc1_x = nn.Linear(in_features, hidden_features)
        self.act = activation("silu")
        self.drop1 = nn.Dropout(drop)
        self.norm = nn.Identity()
        self.fc2 = nn.Linear(hidden_features, in_features)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the MLP to each token."""
        return self.drop2(self.fc2(self.norm(self.drop1(self.act(self.fc1_g(x)) * self.fc1_x(x)))))


class Attention(layers.Attention):
    """Multi-head self-attention. Without `fused_attn` the weights pass through the child `attn_drop`, to be hooked.

    `qkv_bias="qv"` has separate biases of query and value and no key bias (BEiT, DINOv3).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool | Literal["qv"] = False,
        qk_norm: bool = False,
        *,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: LayerType | None = None,
        relative_rows: int = 0,
    ):
        eps = norm_eps(norm_layer) if qk_norm else None
        super().__init__(dim, num_heads, qkv_bias=qkv_bias, qk_norm_eps=eps, relative_rows=relative_rows)
        self.head_dim = dim // num_heads
        self.scale = self.head_dim**-0.5
        self.fused_attn = True
        self.attn_drop = nn.Dropout(attn_drop)
        self.norm = nn.Identity()
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        *,
        rope: Tensor | None = None,
    ) -> Tensor:
        """Returns the tokens after attention and projection.

        `attn_mask` is added to the logits, or is False where a token is masked. `rope` is the rotary embedding of the
        patches (`vitkit.layers.axial_rotation`).
        """
        bias = attention_bias(attn_mask, is_causal, x)
        if self.fused_attn:
            self.dropout = self.attn_drop.p
            return self.proj_drop(super().forward(x, bias, rope))
        q, k, v = self.heads(x, rope)
        weights = self.attn_drop(attention_weights(q, k, bias).to(v.dtype))
        return self.proj_drop(self.proj(self.norm(rearrange(weights @ v, "b h n k -> b n (h k)"))))


def attention_bias(attn_mask: Tensor | None, is_causal: bool, x: Tensor) -> Tensor | None:
    """Returns the mask as values to add to the attention logits, or None if nothing is masked."""
    if is_causal:
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        if attn_mask is not None:
            raise RuntimeError("attn_mask and is_causal are exclusive; pass one of them")
        attn_mask = causal
    if attn_mask is None or attn_mask.dtype is not torch.bool:
        return attn_mask
    return torch.zeros(attn_mask.shape, dtype=x.dtype, device=x.device).masked_fill(~attn_mask, -math.inf)
