"""Learning classes from labels: softmax or sigmoid cross-entropy (ViT paper, section 4.1; big_vision's losses)."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.data import Source
from vitkit.data.loader import Batch
from vitkit.models import Backbone
from vitkit.objectives import Objective

EFFECTIVE = 0.999  # how much of what a picture shows is new, beside all before it


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the labels mean: `softmax` says one class is right, `sigmoid` asks of every class by itself.

    `label_smoothing` is the share of each target spread evenly over all classes. `whole_targets` makes any share of a
    class, as mixing gives it, a whole one (DeiT III). `average` is what sigmoid's terms are averaged over: the pictures
    of the `batch`, their terms summed, or all its `elements`, which makes it smaller by the number of classes.
    `head_bias` is where the biases of the head start, None leaves them: with sigmoid and n classes about -log(n), so
    that no class is likely before the first step (-6.9 for ImageNet-1k, -10 for ImageNet-21k and JFT in the original).
    `class_weights`, one a class, multiply what a picture of that class adds to the loss; they are scaled to a mean of
    1, so that batches stay comparable. `balanced` takes them from the training labels, 1 / n for a class of n pictures,
    `effective` from their effective number, 1 / (1 - 0.999^n) (Cui et al. 2019). `positive_weights` are for pictures
    with several labels under sigmoid: what multiplies the term of a class where it is right; `balanced` is how many
    pictures lack it for one that has it.
    """

    loss: Literal["softmax", "sigmoid"] = "softmax"
    label_smoothing: float = 0.0
    whole_targets: bool = False
    average: Literal["batch", "elements"] = "batch"
    head_bias: float | None = None
    class_weights: tuple[float, ...] | Literal["balanced", "effective"] | None = None
    positive_weights: tuple[float, ...] | Literal["balanced"] | None = None

    def __post_init__(self) -> None:
        """Refuses a share that is none, and weights that cannot be."""
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1")
        for name, weights in (("class", self.class_weights), ("positive", self.positive_weights)):
            if isinstance(weights, tuple) and (not weights or min(weights) < 0.0 or max(weights) == 0.0):
                raise ValueError(f"{name}_weights are {weights}; none may be below 0, and not all 0")
        if self.loss != "sigmoid" and (self.whole_targets or self.average != "batch"):
            given = f"whole_targets={self.whole_targets} and average='{self.average}'"
            raise ValueError(
                f"{given} are for classes that are asked of by themselves: loss is {self.loss}, not sigmoid"
            )
        if self.positive_weights is not None and self.loss != "sigmoid":
            raise ValueError(f"positive_weights weigh one class against its absence: loss is {self.loss}, not sigmoid")

    def fitted(self, training: Source) -> "Config":
        """The config with the weights that its words mean for the labels of the training pictures.

        Raises ValueError for a class without a picture, which no weight makes up for, and for one that all have.
        """
        chosen, positive = self.class_weights, self.positive_weights
        if not isinstance(chosen, str) and not isinstance(positive, str):
            return self
        classes, labels = training.classes, [training.label(index) for index in range(len(training))]
        rows = [{label} if isinstance(label, int) else set(label) for label in labels]
        counts = np.bincount([label for row in rows for label in row if label >= 0], minlength=len(classes))
        empty = [name for name, count in zip(classes, counts, strict=True) if not count]
        if empty:
            raise ValueError(f"'{empty[0]}' has no training picture to balance it by ({len(empty)} classes have none)")
        if isinstance(chosen, str):
            weights = 1.0 / (counts if chosen == "balanced" else 1.0 - EFFECTIVE**counts)
            chosen = tuple((weights / weights.mean()).tolist())
        if isinstance(positive, str):
            lacking = len(rows) - counts
            if not lacking.all():
                raise ValueError(f"every training picture has the label '{classes[int(lacking.argmin())]}'")
            positive = tuple((lacking / counts).tolist())
        return replace(self, class_weights=chosen, positive_weights=positive)


class Supervised(Objective):
    """The cross-entropy between the backbone's logits and the targets, summed over classes (or their mean, `average`),
    averaged over the batch.

    Raises ValueError for a backbone without a linear head.
    """

    class_weights: Tensor | None
    positive_weights: Tensor | None

    def __init__(self, config: Config, backbone: Backbone):
        super().__init__()
        if not isinstance(backbone.head, nn.Linear):
            raise ValueError("learning classes needs a model with a head: set num_classes")
        self.config = config
        self.backbone = backbone
        classes = backbone.head.out_features
        weights = _held("class_weights", config.class_weights, classes)
        self.register_buffer("class_weights", None if weights is None else weights / weights.mean(), persistent=False)
        positive = _held("positive_weights", config.positive_weights, classes)
        self.register_buffer("positive_weights", positive, persistent=False)
        if config.head_bias is not None:
            nn.init.constant_(backbone.head.bias, config.head_bias)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """`loss`, and `accuracy`: how often the likeliest class is the likeliest of the targets too."""
        # In float32 under autocast as well: a softmax in bfloat16 has three digits.
        logits = self.backbone(batch.images).float()
        targets = (batch.targets > 0).to(batch.targets) if self.config.whole_targets else batch.targets
        loss = cross_entropy(
            logits,
            targets,
            kind=self.config.loss,
            label_smoothing=self.config.label_smoothing,
            class_weights=self.class_weights,
            positive_weights=self.positive_weights,
        )
        if self.config.average == "elements":
            loss = loss / logits.shape[1]
        hits = batch.targets.gather(1, logits.argmax(dim=1, keepdim=True)) >= batch.targets.amax(dim=1, keepdim=True)
        return {"loss": loss, "accuracy": hits.float().mean()}


def _held(name: str, weights: tuple[float, ...] | str | None, classes: int) -> Tensor | None:
    if isinstance(weights, str):
        raise ValueError(f"{name}='{weights}' is counted from training labels: `Config.fitted` says what it means")
    if weights is not None and len(weights) != classes:
        raise ValueError(f"there are {len(weights)} {name}, but {classes} classes")
    return None if weights is None else torch.tensor(weights, dtype=torch.float32)


def cross_entropy(
    logits: Float[Tensor, "b classes"],
    targets: Float[Tensor, "b classes"],
    *,
    kind: str,
    label_smoothing: float = 0.0,
    class_weights: Float[Tensor, " classes"] | None = None,
    positive_weights: Float[Tensor, " classes"] | None = None,
) -> Float[Tensor, ""]:
    """-sum_c t_c log softmax(l)_c, or -sum_c [t_c log s(l_c) + (1 - t_c) log s(-l_c)] with the sigmoid s; mean over
    b. With class weights w a picture's term is multiplied by sum_c w_c t_c / sum_c t_c, t before smoothing; positive
    weights multiply the t_c log s(l_c).
    """
    given = targets
    targets = torch.lerp(targets, torch.full_like(targets, 1 / targets.shape[1]), label_smoothing)
    if class_weights is not None:
        shares = (given @ class_weights) / given.sum(dim=1).clamp(min=1e-6)
        return (_terms(logits, targets, kind, positive_weights) * shares).mean()
    if kind == "softmax":
        return F.cross_entropy(logits, targets)
    return _terms(logits, targets, kind, positive_weights).mean()


def _terms(
    logits: Float[Tensor, "b classes"], targets: Float[Tensor, "b classes"], kind: str, positive: Tensor | None
) -> Float[Tensor, " b"]:
    if kind == "softmax":
        return F.cross_entropy(logits, targets, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none", pos_weight=positive).sum(dim=1)


def build(config: Config, backbone: Backbone) -> Supervised:
    """The objective around a backbone."""
    return Supervised(config, backbone)
