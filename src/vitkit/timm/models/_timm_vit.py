"""`TimmViT`, the base class with the methods that timm's ViTs share.

The embedding, the position tables, resizing and initialization are those of the family. The order of the steps is
timm's, so that `patch_embed`, `_pos_embed`, `norm_pre`, `blocks`, `norm` and `forward_head` can be called, hooked and
replaced one by one.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from vitkit.config import JsonDict
from vitkit.layers import Features, Taps, join_tokens, layer_norm, make_taps
from vitkit.models import TokenBackbone
from vitkit.timm.layers import PatchDropout, hide, move_first, to_2tuple
from vitkit.timm.models._arguments import Shared
from vitkit.timm.models._blocks import Block
from vitkit.timm.models._features import Indices, feature_take_indices

# timm's order of the children.
ORDER = (
    *("patch_embed", "pos_drop", "patch_drop", "norm_pre", "rel_pos_bias", "blocks", "norm", "attn_pool", "fc_norm"),
    *("head_drop", "head", "head_dist"),
)
#: vitkit's name of each pooling; the others are computed here only.
POOLS = {"token": "token", "avg": "gap", "map": "map"}


class TimmViT(TokenBackbone):
    """Base class of timm's ViTs. Each subclass also inherits from the vitkit model of its family."""

    # Supported poolings, and how timm's assertion lists those of its class.
    pools: ClassVar[tuple[str, ...]] = ("", "avg", "token", "map")
    pools_message: ClassVar[str] = "Only avg, avgmax, max, token or map pooling (or none) is supported."
    # The last three blocks, as timm's entry points set.
    default_out_indices: ClassVar[int | tuple[int, ...]] = 3
    # Children that timm's class does not have.
    hidden: ClassVar[tuple[str, ...]] = ()
    stem: ClassVar[str] = r"^cls_token|reg_token|pos_embed|patch_embed|norm_pre"

    cls_token: Any
    pos_embed: nn.Parameter | None
    pos_drop: nn.Module
    patch_embed: Any
    blocks: Any
    default_cfg: JsonDict
    pretrained_cfg: JsonDict

    @classmethod
    def check_pool(cls, global_pool: str, class_token: bool) -> None:
        """Raises AssertionError if the pooling is unknown, or needs a class token that the model does not have.

        Raises ValueError for a pooling of timm that vitkit does not have.
        """
        if global_pool in ("avgmax", "max", "prr") and global_pool in cls.pools_message:
            expected = " or ".join(map(repr, cls.pools))
            raise ValueError(
                f"global_pool={global_pool!r} is not supported by vitkit; expected {expected}, or use timm"
            )
        if global_pool not in cls.pools:
            raise AssertionError(f"{cls.pools_message} Got global_pool={global_pool!r}.")
        if global_pool == "token" and not class_token:
            raise AssertionError("Token pooling needs the class token.")

    def _finish(self, arguments: Shared, *, use_fc_norm: bool, dynamic: bool = False) -> None:
        """Adds timm's modules and attributes. The parameters of the model are still on the meta device."""
        width = arguments.embed_dim
        self.num_classes = arguments.num_classes
        self.in_chans = arguments.in_chans
        self.global_pool = arguments.global_pool
        self.num_features = self.head_hidden_size = self.embed_dim = width
        # Special tokens before the patches.
        self.num_prefix_tokens = sum(token.shape[1] for token in self._prefix())
        self.dynamic_img_size = dynamic
        self.grad_checkpointing = False
        self.pos_drop = nn.Dropout(arguments.pos_drop_rate)
        rate = arguments.patch_drop_rate
        self.patch_drop = PatchDropout(rate, self.num_prefix_tokens) if rate > 0 else nn.Identity()
        eps = arguments.norm_eps
        self.norm_pre = layer_norm(width, eps) if getattr(arguments, "pre_norm", False) else nn.Identity()
        final = getattr(arguments, "final_norm", True)
        self.norm = layer_norm(width, eps) if final and not use_fc_norm else nn.Identity()
        self.fc_norm = layer_norm(width, eps) if final and use_fc_norm else nn.Identity()
        self.head_drop = nn.Dropout(arguments.drop_rate)
        stride = self.patch_embed.feat_ratio()
        self.feature_info = [
            {"module": f"blocks.{index}", "num_chs": width, "reduction": stride} for index in range(arguments.depth)
        ]
        hide(self, *self.hidden, "pre_logits")
        move_first(self, *(name for name in ORDER if name in self._modules))

    def _materialize(self, arguments: Shared, weight_init: str = "") -> None:
        """Moves the model from the meta device to the target device, and initializes its weights."""
        device = torch.device(arguments.device) if arguments.device is not None else torch.get_default_device()
        self.weight_init_mode = weight_init
        if device.type != "meta":
            self.to_empty(device=device)
            self.init_weights()
        if arguments.dtype is not None:
            self.to(arguments.dtype)

    def _prefix(self) -> list[Tensor]:
        """Returns the parameters of the special tokens, in order."""
        named = (getattr(self, name, None) for name in ("cls_token", "dist_token", "reg_token"))
        return [token for token in named if token is not None]

    def _pos_embed(self, x: Tensor) -> Any:
        """Returns special tokens and patches with position embeddings."""
        if x.ndim == 3:
            grid = self.patch_embed.grid_size
            if x.shape[1] != grid[0] * grid[1]:
                raise AssertionError(
                    f"the image has {x.shape[1]} patches, but the model has {grid[0]}x{grid[1]}; "
                    "set dynamic_img_size=True"
                )
            patches = rearrange(x, "b (r c) d -> b d r c", r=grid[0])
        else:
            patches = rearrange(x, "b r c d -> b d r c")
        grid = (patches.shape[2], patches.shape[3])
        return self.pos_drop(join_tokens(self._prefix(), patches, self.positions(grid)))

    def embed(self, images: Tensor) -> Features:
        """Returns the input of the first block."""
        grid = self.patch_embed.dynamic_feat_size(tuple(images.shape[2:]))
        tokens = self._pos_embed(self.patch_embed(images))
        # timm's Eva returns the rotary embedding, too.
        tokens = tokens[0] if isinstance(tokens, tuple) else tokens
        tokens = self.norm_pre(self.patch_drop(tokens))
        return Features(tokens=tokens, grid=grid, num_special=self.num_prefix_tokens)

    def block_inputs(self, grid: tuple[int, int]) -> dict[str, Any]:
        """Returns the arguments of each block other than tokens and masks."""
        return {}

    def encode(self, embedded: Features, taps: Taps | None = None) -> Features:
        """Runs the blocks and the final norm."""
        return self._encode(embedded, taps, {})

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Returns the tokens (b, n, d) after the final norm, special tokens first."""
        return self._encode(self.embed(x), None, {"attn_mask": attn_mask, "is_causal": is_causal}).tokens

    def _encode(self, embedded: Features, taps: Taps | None, masks: dict[str, Any]) -> Features:
        x = embedded.tokens
        inputs = self.block_inputs(embedded.grid)
        inputs |= {name: mask for name, mask in masks.items() if mask is not None and mask is not False}
        for index, block in enumerate(self.blocks):
            x = block(x, **inputs)
            if taps is not None and taps.add(index, x):
                break
        return embedded.with_tokens(self.norm(x))

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        """Returns the pooled tokens (b, d), or all tokens if the model has no pooling."""
        attn_pool = getattr(self, "attn_pool", None)
        patches = x[:, self.num_prefix_tokens :]
        if attn_pool is not None:
            return attn_pool(patches)
        pool_type = self.global_pool if pool_type is None else pool_type
        if not pool_type:
            return x
        if pool_type == "token":
            return x[:, 0]
        if pool_type != "avg":
            raise AssertionError(f"Unknown pool type {pool_type}")
        return patches.mean(dim=1)

    def represent(self, features: Features) -> Tensor:
        """Returns the input of the head."""
        return self.head_drop(self.fc_norm(self.pool(features.tokens)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Returns the logits of tokens, or with `pre_logits` the input of the head."""
        x = self.head_drop(self.fc_norm(self.pool(x)))
        return x if pre_logits else self.head(x)

    def forward(  # type: ignore[override] - timm's arguments
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Any:
        """Returns the logits of images."""
        masks = {} if attn_mask is None and not is_causal else {"attn_mask": attn_mask, "is_causal": is_causal}
        return self.forward_head(self.forward_features(x, **masks))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Indices = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        *,
        output_dict: bool = False,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Any:
        """Returns the final tokens and the outputs of chosen blocks, in the order of the blocks.

        The outputs are feature maps (b, d, rows, columns), or tokens without special tokens with `output_fmt="NLC"`.
        With `return_prefix_tokens` each is a pair (output, special tokens). `norm` applies the final norm to them,
        `stop_early` stops after the last chosen block, `intermediates_only` leaves out the final tokens, and
        `output_dict` returns a dict.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise AssertionError(f"Output format must be one of NCHW or NLC. Got {output_fmt!r}.")
        chosen, _ = feature_take_indices(len(self.blocks), indices)
        taps = make_taps(
            sorted(set(chosen)), len(self.blocks), lambda _, y: self.norm(y), norm=norm, intermediates_only=stop_early
        )
        assert taps is not None, "blocks were chosen"
        embedded = self.embed(x)
        encoded = self._encode(embedded, taps, {"attn_mask": attn_mask, "is_causal": is_causal})
        outputs = taps.attach(encoded).taps
        count = self.num_prefix_tokens
        prefixes, spatial = [y[:, :count] for y in outputs], [y[:, count:] for y in outputs]
        if output_fmt == "NCHW":
            spatial = [rearrange(y, "b (r c) d -> b d r c", r=embedded.grid[0]).contiguous() for y in spatial]
        return_prefix_tokens = return_prefix_tokens and count > 0
        if output_dict:
            result: dict[str, Any] = {"image_intermediates": spatial}
            result |= {"image_intermediates_prefix": prefixes} if return_prefix_tokens else {}
            return result if intermediates_only else result | {"image_features": encoded.tokens}
        found = list(zip(spatial, prefixes, strict=True)) if return_prefix_tokens else spatial
        return found if intermediates_only else (encoded.tokens, found)

    def get_intermediate_layers(
        self,
        x: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        attn_mask: Tensor | None = None,
    ) -> list[Any]:
        """Returns the outputs of the last `n` blocks, or if `n` is a sequence of indices, of these blocks."""
        fmt = "NCHW" if reshape else "NLC"
        options: dict[str, Any] = {"return_prefix_tokens": return_prefix_tokens, "norm": norm, "attn_mask": attn_mask}
        return self.forward_intermediates(x, n, output_fmt=fmt, intermediates_only=True, **options)

    def prune_intermediate_layers(
        self, indices: Indices = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes the blocks after the last chosen one, and optionally norm and head. Returns the chosen indices."""
        chosen, last = feature_take_indices(len(self.blocks), indices)
        self.blocks = self.blocks[: last + 1]
        self.config = dataclasses.replace(self.config, depth=last + 1)
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.fc_norm = nn.Identity()
            self.reset_classifier(0, "")
        return chosen

    def get_classifier(self) -> Any:
        """Returns the head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the head with a randomly initialized one, and changes the pooling. The norms do not change."""
        if global_pool is not None:
            self.check_pool(global_pool, self.cls_token is not None)
            if global_pool == "map" and getattr(self, "attn_pool", None) is None:
                raise AssertionError("Cannot currently add attention pooling in reset_classifier().")
            if global_pool != "map" and hasattr(self, "attn_pool"):
                self.attn_pool = None
            self.global_pool = global_pool
            self._set_pool(global_pool)
        self.num_classes = num_classes
        self.head = self._new_head(num_classes)
        self.config = dataclasses.replace(self.config, num_classes=num_classes, task=self.config.task.for_new_head())

    def _set_pool(self, global_pool: str) -> None:
        """Changes the pooling in the vitkit config if the family supports several poolings."""
        if not hasattr(self.config, "pool"):
            return
        pool = POOLS.get(global_pool, "none")
        for changes in ({"pool": pool}, {"pool": pool, "norm": "tokens"}):
            try:
                self.config = dataclasses.replace(self.config, **changes)
                return
            except (ValueError, TypeError):  # a norm after pooling needs a pool; BEiT has no choice of the norm
                continue

    def _new_head(self, num_classes: int) -> nn.Module:
        like = next(self.parameters())
        if not num_classes:
            return nn.Identity()
        return nn.Linear(self.embed_dim, num_classes, device=like.device, dtype=like.dtype).train(self.training)

    def reset_head(self, num_classes: int) -> None:
        """Replaces the head. See `reset_classifier`."""
        self.reset_classifier(num_classes)

    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, patch_size: int | tuple[int, int] | None = None
    ) -> None:
        """Changes the image size and the patch size. Resizes the position embeddings and the patch projection."""
        image = None if img_size is None else to_2tuple(img_size)
        self.resize(image, None if patch_size is None else to_2tuple(patch_size))
        self.patch_embed.img_size = self.config.image_size

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Enables or disables activation checkpointing of the blocks."""
        self.grad_checkpointing = enable
        for block in self.blocks:
            if isinstance(block, Block):
                block.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Returns the names of parameters without weight decay."""
        return {"pos_embed", "cls_token", "reg_token", "dist_token"}

    def group_matcher(self, coarse: bool = False) -> JsonDict:
        """Returns patterns of parameter names for layer-wise learning rates, in timm's format."""
        return {"stem": self.stem, "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]}
