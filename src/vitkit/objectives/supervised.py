"""Supervised classification with softmax or sigmoid cross-entropy (ViT paper, section 4.1), and regression."""

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

EFFECTIVE = 0.999  # beta of the effective number of samples (Cui et al. 2019)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Config of supervised classification or regression: loss, label smoothing and class weights.

    `loss` "softmax" is for exclusive classes, "sigmoid" for independent ones, "mse" (the mean squared error of
    standardized targets, see `vitkit.task`) for numbers. `label_smoothing` is the fraction of each
    target that is spread evenly over all classes. `binarize_targets` sets every positive target, as mixing
    produces them, to 1 (DeiT III). `average` is the reduction of the sigmoid loss: summed over classes and averaged
    over the `batch`, or averaged over all `elements`, which divides it by the number of classes. `head_bias` is the
    initial bias of the head, None for no change: about -log(n) for sigmoid and n classes, so that all initial
    probabilities are low (-6.9 for ImageNet-1k, -10 for ImageNet-21k and JFT in the original).

    `class_weights`, one per class, multiply the loss of images of the class; they are scaled to a mean of 1, so that
    losses stay comparable. "balanced" computes them from the training labels, 1 / n for a class of n images,
    "effective" from the effective numbers of samples, 1 / (1 - 0.999^n) (Cui et al. 2019). `positive_weights`, for
    images with several labels under sigmoid, multiply the term of a class for images with that label; "balanced" is the
    number of images without the label divided by the number with it.
    """

    loss: Literal["softmax", "sigmoid", "mse"] = "softmax"
    label_smoothing: float = 0.0
    binarize_targets: bool = False
    average: Literal["batch", "elements"] = "batch"
    head_bias: float | None = None
    class_weights: tuple[float, ...] | Literal["balanced", "effective"] | None = None
    positive_weights: tuple[float, ...] | Literal["balanced"] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError if a value is out of range, or if an option does not fit the loss."""
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1")
        for name, weights in (("class", self.class_weights), ("positive", self.positive_weights)):
            if isinstance(weights, tuple) and (not weights or min(weights) < 0.0 or max(weights) == 0.0):
                raise ValueError(
                    f"{name}_weights are {weights}; weights cannot be negative, and at least one must be above 0"
                )
        if self.loss != "sigmoid" and (self.binarize_targets or self.average != "batch"):
            given = f"binarize_targets={self.binarize_targets} and average='{self.average}'"
            raise ValueError(f"{given} need loss='sigmoid', not '{self.loss}'")
        if self.loss == "mse" and (self.label_smoothing or self.class_weights is not None):
            raise ValueError(
                "label_smoothing and class_weights need classes, but loss='mse' predicts numbers; unset both"
            )
        if self.positive_weights is not None and self.loss != "sigmoid":
            raise ValueError(f"positive_weights need loss='sigmoid', not '{self.loss}'")

    def fitted(self, training: Source) -> "Config":
        """Returns the config with "balanced" and "effective" weights replaced by numbers from the training labels.

        Raises ValueError for a class without images, and with positive weights for a label that all images have.
        """
        chosen, positive = self.class_weights, self.positive_weights
        if not isinstance(chosen, str) and not isinstance(positive, str):
            return self
        classes, labels = training.classes, [training.label(index) for index in range(len(training))]
        rows = [{label} if isinstance(label, int) else set(label) for label in labels]
        counts = np.bincount([label for row in rows for label in row if label >= 0], minlength=len(classes))
        empty = [name for name, count in zip(classes, counts, strict=True) if not count]
        if empty:
            raise ValueError(
                f"cannot balance class '{empty[0]}': it has no training images ({len(empty)} classes have none)"
            )
        if isinstance(chosen, str):
            weights = 1.0 / (counts if chosen == "balanced" else 1.0 - EFFECTIVE**counts)
            chosen = tuple((weights / weights.mean()).tolist())
        if isinstance(positive, str):
            negatives = len(rows) - counts
            if not negatives.all():
                name = classes[int(negatives.argmin())]
                raise ValueError(f"cannot balance label '{name}': every training image has this label")
            positive = tuple((negatives / counts).tolist())
        return replace(self, class_weights=chosen, positive_weights=positive)


class Supervised(Objective):
    """Supervised objective: cross-entropy for classification, or mean squared error for regression.

    Raises ValueError for a backbone without a linear head, and if the loss does not fit its task.
    """

    class_weights: Tensor | None
    positive_weights: Tensor | None

    def __init__(self, config: Config, backbone: Backbone):
        super().__init__()
        if not isinstance(backbone.head, nn.Linear):
            raise ValueError("supervised training needs a model with a head; set num_classes")
        if (config.loss == "mse") != backbone.config.task.regression:
            problem = backbone.config.task.problem_type
            raise ValueError(f"loss='{config.loss}' does not fit task.problem_type='{problem}' of the model")
        self.config = config
        self.backbone = backbone
        classes = backbone.head.out_features
        weights = _weight_tensor("class_weights", config.class_weights, classes)
        self.register_buffer("class_weights", None if weights is None else weights / weights.mean(), persistent=False)
        positive = _weight_tensor("positive_weights", config.positive_weights, classes)
        self.register_buffer("positive_weights", positive, persistent=False)
        if config.head_bias is not None:
            nn.init.constant_(backbone.head.bias, config.head_bias)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Returns `loss` and `accuracy`, the fraction of images whose predicted class is the target class.

        For a regression it returns only `loss`.
        """
        # float32 also under autocast: a softmax in bfloat16 has three digits.
        logits = self.backbone(batch.images).float()
        if self.config.loss == "mse":
            return {"loss": F.mse_loss(logits, self.backbone.config.task.standardized(batch.targets))}
        targets = (batch.targets > 0).to(batch.targets) if self.config.binarize_targets else batch.targets
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


def _weight_tensor(name: str, weights: tuple[float, ...] | str | None, classes: int) -> Tensor | None:
    if isinstance(weights, str):
        raise ValueError(
            f"{name}='{weights}' needs the training labels; call `objectives.fitted` to compute the weights"
        )
    if weights is not None and len(weights) != classes:
        raise ValueError(f"there are {len(weights)} {name}, but {classes} classes; pass one weight per class")
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
    """Returns the softmax or sigmoid cross-entropy with soft targets, averaged over the batch.

    For `kind` "softmax" it is -sum_c t_c log softmax(l)_c; for "sigmoid", with the sigmoid s, it is
    -sum_c [t_c log s(l_c) + (1 - t_c) log s(-l_c)]. With class weights w the loss of an image is multiplied by
    sum_c w_c t_c / sum_c t_c, with t before smoothing. Positive weights multiply t_c log s(l_c).
    """
    original = targets
    targets = torch.lerp(targets, torch.full_like(targets, 1 / targets.shape[1]), label_smoothing)
    if class_weights is not None:
        weights = (original @ class_weights) / original.sum(dim=1).clamp(min=1e-6)
        return (_terms(logits, targets, kind, positive_weights) * weights).mean()
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
    """Builds the supervised objective for a backbone."""
    return Supervised(config, backbone)
