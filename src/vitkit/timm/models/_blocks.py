"""timm's encoder blocks of the plain ViT, BEiT and DINOv3."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitkit import layers
from vitkit.layers import relative_bias, relative_index, relative_rows, resize_relative
from vitkit.timm.layers import Attention, DropPath, LayerScale, LayerType, Mlp, hide, norm_eps


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Returns the rate of stochastic depth of each block, which grows linearly from 0 to `rate`."""
    return [rate * index / max(depth - 1, 1) for index in range(depth)]


def drop_path(rate: float) -> nn.Module:
    """Returns a `DropPath`, or the identity if the rate is 0."""
    return DropPath(rate) if rate > 0 else nn.Identity()


class Block(layers.Block):
    """Pre-norm encoder block of the plain ViT. `attn` and `mlp` replace the default attention and MLP."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        *,
        proj_drop: float = 0.0,
        attn_drop: float = 0.0,
        init_values: float | None = None,
        drop_path: float = 0.0,
        act_layer: LayerType | None = None,
        norm_layer: LayerType | None = None,
        attn: Attention | None = None,
        mlp: nn.Module | None = None,
    ):
        drops: dict[str, Any] = {"attn_drop": attn_drop, "proj_drop": proj_drop}
        attn = attn or Attention(dim, num_heads, qkv_bias, qk_norm, norm_layer=norm_layer, **drops)
        mlp = mlp or Mlp(dim, int(dim * mlp_ratio), act_layer, drop=proj_drop)
        super().__init__(attn, mlp, width=dim, norm_eps=norm_eps(norm_layer))
        self.ls1, self.ls2 = (LayerScale(dim, init_values) if init_values else nn.Identity() for _ in range(2))
        del self.drop_path, self.dropout
        self._add_drop_paths(drop_path)
        # Activation checkpointing (`set_grad_checkpointing` of the model).
        self.grad_checkpointing = False

    def _add_drop_paths(self, rate: float) -> None:
        self.drop_path1, self.drop_path2 = drop_path(rate), drop_path(rate)
        order = ("norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2")
        self._modules = {name: self._modules[name] for name in order}

    def forward(  # type: ignore[override] - timm's arguments
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Returns the tokens after attention and MLP. See `Attention` for the masks."""
        return self.run(x, attn_mask=attn_mask, is_causal=is_causal)

    def run(self, x: Tensor, **inputs: Any) -> Tensor:
        """Applies attention and MLP, with activation checkpointing if enabled. `inputs` are passed to the attention."""
        given = {name: value for name, value in inputs.items() if value is not None and value is not False}
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(self._residual, x, given, use_reentrant=False)
        return self._residual(x, given)

    def _residual(self, x: Tensor, inputs: dict[str, Any]) -> Tensor:
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), **inputs)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class EvaBlock(Block):
    """Encoder block of BEiT and DINOv3. The LayerScale parameters are `gamma_1` and `gamma_2` of the block."""

    def __init__(self, dim: int, num_heads: int, *, init_values: float | None = None, **arguments: Any):
        super().__init__(dim, num_heads, **arguments)
        self.init_values = init_values
        scales = [nn.Parameter(torch.full((dim,), init_values)) if init_values else None for _ in range(2)]
        self.gamma_1, self.gamma_2 = scales
        # The methods below take their place.
        del self._modules["ls1"], self._modules["ls2"]

    def forward(  # type: ignore[override]
        self, x: Tensor, rope: Tensor | None = None, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Returns the tokens after attention and MLP. `rope` is the rotary embedding of the patches."""
        return self.run(x, rope=rope, attn_mask=attn_mask, is_causal=is_causal)

    def ls1(self, x: Tensor) -> Tensor:
        """Applies LayerScale to the attention branch."""
        return x if self.gamma_1 is None else self.gamma_1 * x

    def ls2(self, x: Tensor) -> Tensor:
        """Applies LayerScale to the MLP branch."""
        return x if self.gamma_2 is None else self.gamma_2 * x

    def reset_parameters(self) -> None:
        """Initializes the LayerScale parameters."""
        for gamma in (self.gamma_1, self.gamma_2):
            if gamma is not None and self.init_values is not None:
                nn.init.constant_(gamma, self.init_values)


class BeitBlock(EvaBlock):
    """Encoder block of BEiT, whose attention adds a relative position bias."""

    def forward(self, x: Tensor, shared_rel_pos_bias: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Returns the tokens after attention and MLP. The shared bias is added to the block's own bias."""
        return self.run(x, shared_rel_pos_bias=shared_rel_pos_bias)


class BeitAttention(Attention):
    """Attention with its own relative position bias (for a grid of `window_size` patches) or with a shared one."""

    def __init__(
        self, dim: int, num_heads: int, *, window_size: tuple[int, int] | None, attn_drop: float, proj_drop: float
    ):
        rows = relative_rows(window_size) if window_size else 0
        super().__init__(dim, num_heads, "qv", attn_drop=attn_drop, proj_drop=proj_drop, relative_rows=rows)
        hide(self, "norm", "q_norm", "k_norm")
        self.window_size = window_size

    def forward(self, x: Tensor, shared_rel_pos_bias: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Returns the tokens after attention and projection."""
        bias = self.relative_bias()
        if bias is None or shared_rel_pos_bias is None:
            bias = shared_rel_pos_bias if bias is None else bias
        else:
            bias = bias + shared_rel_pos_bias
        return super().forward(x, bias)

    def relative_bias(self) -> Tensor | None:
        """Returns the relative position bias (1, heads, tokens, tokens) of this layer, or None without a table."""
        if self.window_size is None or self.relative_position_bias_table is None:
            return None
        index = relative_index(self.window_size, device=self.qkv.weight.device)
        return relative_bias(self.relative_position_bias_table, index)

    def set_window_size(self, window_size: tuple[int, int]) -> None:
        """Resizes the relative position bias table to another grid of patches."""
        if self.window_size is None or self.relative_position_bias_table is None:
            return
        table = self.relative_position_bias_table
        if window_size != self.window_size:
            resized = resize_relative(table.detach(), self.window_size, window_size, "geometric_linear")
            self.relative_position_bias_table = nn.Parameter(resized.clone(), table.requires_grad)
        self.window_size = window_size
