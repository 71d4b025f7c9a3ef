"""Learning classes from labels: softmax or sigmoid cross-entropy (ViT paper, section 4.1; big_vision's losses)."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.data.loader import Batch
from vitkit.models import Backbone
from vitkit.objectives import Objective


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the labels mean: `softmax` says one class is right, `sigmoid` asks of every class by itself.

    `label_smoothing` is the share of each target spread evenly over all classes. `head_bias` is where the biases of the
    head start, None leaves them: with sigmoid and n classes about -log(n), so that no class is likely before the first
    step (-6.9 for ImageNet-1k, -10 for ImageNet-21k and JFT in the original). `class_weights`, one a class, multiply
    what a picture of that class adds to the loss; they are scaled to a mean of 1, so that batches stay comparable.
    """

    loss: Literal["softmax", "sigmoid"] = "softmax"
    label_smoothing: float = 0.0
    head_bias: float | None = None
    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Refuses a share that is none."""
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1")
        weights = self.class_weights
        if weights is not None and (not weights or min(weights) < 0.0 or max(weights) == 0.0):
            raise ValueError(f"class_weights are {weights}; none may be below 0, and not all 0")


class Supervised(Objective):
    """The cross-entropy between the backbone's logits and the targets, summed over classes, averaged over the batch.

    Raises ValueError for a backbone without a linear head.
    """

    class_weights: Tensor | None

    def __init__(self, config: Config, backbone: Backbone):
        super().__init__()
        if not isinstance(backbone.head, nn.Linear):
            raise ValueError("learning classes needs a model with a head: set num_classes")
        self.config = config
        self.backbone = backbone
        weights = config.class_weights
        if weights is not None and len(weights) != backbone.head.out_features:
            raise ValueError(f"there are {len(weights)} class_weights, but {backbone.head.out_features} classes")
        held = None if weights is None else torch.tensor(weights) * len(weights) / sum(weights)
        self.register_buffer("class_weights", held, persistent=False)
        if config.head_bias is not None:
            nn.init.constant_(backbone.head.bias, config.head_bias)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """`loss`, and `accuracy`: how often the likeliest class is the likeliest of the targets too."""
        # In float32 under autocast as well: a softmax in bfloat16 has three digits.
        logits = self.backbone(batch.images).float()
        loss = cross_entropy(
            logits,
            batch.targets,
            kind=self.config.loss,
            label_smoothing=self.config.label_smoothing,
            class_weights=self.class_weights,
        )
        hits = batch.targets.gather(1, logits.argmax(dim=1, keepdim=True)) >= batch.targets.amax(dim=1, keepdim=True)
        return {"loss": loss, "accuracy": hits.float().mean()}


def cross_entropy(
    logits: Float[Tensor, "b classes"],
    targets: Float[Tensor, "b classes"],
    *,
    kind: str,
    label_smoothing: float = 0.0,
    class_weights: Float[Tensor, " classes"] | None = None,
) -> Float[Tensor, ""]:
    """-sum_c t_c log softmax(l)_c, or -sum_c [t_c log s(l_c) + (1 - t_c) log s(-l_c)] with the sigmoid s; mean over
    b. With class weights w a picture's term is multiplied by sum_c w_c t_c / sum_c t_c, t before smoothing.
    """
    given = targets
    targets = torch.lerp(targets, torch.full_like(targets, 1 / targets.shape[1]), label_smoothing)
    if class_weights is not None:
        shares = (given @ class_weights) / given.sum(dim=1).clamp(min=1e-6)
        return (_terms(logits, targets, kind) * shares).mean()
    if kind == "softmax":
        return F.cross_entropy(logits, targets)
    return _terms(logits, targets, kind).mean()


def _terms(logits: Float[Tensor, "b classes"], targets: Float[Tensor, "b classes"], kind: str) -> Float[Tensor, " b"]:
    if kind == "softmax":
        return F.cross_entropy(logits, targets, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1)


def build(config: Config, backbone: Backbone) -> Supervised:
    """The objective around a backbone."""
    return Supervised(config, backbone)
