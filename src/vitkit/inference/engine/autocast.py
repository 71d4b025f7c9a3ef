"""`AutocastModel`, which runs the original model in bfloat16 or float16 with autocast."""

from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from vitkit.layers import Blocks, Features, TapOptions, eval_mode
from vitkit.models import Backbone


class AutocastModel(Backbone):
    """Wraps a model and runs its operations under `torch.autocast`.

    The model is not copied, so its hooks, parametrizations and replaced methods are used, and later changes of the
    model take effect. The model is not a submodule of the wrapper. Its training mode and its dtype do not change.
    """

    original: Backbone

    def __init__(self, original: Backbone, dtype: torch.dtype):
        super().__init__()
        object.__setattr__(self, "original", original)
        self.config = original.config
        self.width = original.width
        self.dtype = dtype
        self.eval()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(next(self.original.parameters()).device.type, self.dtype)

    @property
    def pool_width(self) -> int:
        """The width of the representation, which is the input of the head."""
        return self.original.pool_width

    def features(
        self, images: Float[Tensor, "b c height width"], blocks: Blocks | None = None, **options: Unpack[TapOptions]
    ) -> Features:
        """Returns the features of the original model."""
        with self._autocast(), eval_mode(self.original):
            return self.original.features(images.to(next(self.original.parameters()).dtype), blocks, **options)

    def represent(self, features: Features) -> Float[Tensor, "b *n d"]:
        """Returns the representation of each image, which is the input of the head."""
        with self._autocast(), eval_mode(self.original):
            return self.original.represent(features)

    def logits(self, features: Features) -> Float[Tensor, "b *n classes"]:
        """Returns the logits for features."""
        with self._autocast(), eval_mode(self.original):
            return self.original.logits(features)

    def forward(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b *n classes"]:
        """Returns the logits of images, from the `forward` method of the original model."""
        with self._autocast(), eval_mode(self.original):
            return self.original(images.to(next(self.original.parameters()).dtype))

    def init_weights(self) -> None:
        """Initializes the weights of the original model."""
        self.original.init_weights()
