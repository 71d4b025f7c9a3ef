"""Losses of the models: classification or regression, semantic segmentation and masked image modeling."""

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Float, Shaped
from torch import Tensor

from vitkit.transformers.configuration import PretrainedConfig


def classification_loss(
    labels: Shaped[Tensor, "..."],
    logits: Float[Tensor, "b classes"],
    config: PretrainedConfig,
    num_items_in_batch: Tensor | int | None = None,
) -> Float[Tensor, ""]:
    """Returns the loss of the problem type: mean squared error, cross-entropy or binary cross-entropy.

    If `config.problem_type` is None, the labels determine it and it is stored: regression for one class, single-label
    classification for integers, else multi-label classification. Raises RuntimeError for class labels that are not
    integers, as transformers does. With `num_items_in_batch` the cross-entropy is summed
    and divided by that number, so that every image has the same weight under gradient accumulation.
    """
    labels = labels.to(logits.device)
    if config.problem_type is None:
        if config.num_labels == 1:
            config.problem_type = "regression"
        else:
            integers = labels.dtype in (torch.int64, torch.int32)
            config.problem_type = "single_label_classification" if integers else "multi_label_classification"
    if config.problem_type == "regression":
        return F.mse_loss(logits.squeeze(), labels.squeeze()) if config.num_labels == 1 else F.mse_loss(logits, labels)
    if config.problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels)
    if labels.is_floating_point() or labels.is_complex():
        raise RuntimeError(
            f"the labels of problem_type='single_label_classification' are class indices, expected an integer dtype "
            f"(torch.long), got {labels.dtype}; set problem_type='regression' for numbers"
        )
    logits, labels = logits.view(-1, config.num_labels), labels.view(-1).long()
    if num_items_in_batch is None:
        return F.cross_entropy(logits, labels)
    items = num_items_in_batch.to(logits.device) if isinstance(num_items_in_batch, Tensor) else num_items_in_batch
    return F.cross_entropy(logits, labels, reduction="sum") / items


def segmentation_loss(
    logits: Float[Tensor, "b classes rows columns"],
    labels: Shaped[Tensor, "b height width"],
    ignore_index: int = 255,
    num_items_in_batch: Tensor | int | None = None,
    auxiliary_logits: Float[Tensor, "b classes r s"] | None = None,
    auxiliary_loss_weight: float = 0.4,
) -> Float[Tensor, ""]:
    """Returns the cross-entropy of the classes of pixels. The logits are resized to the size of the labels.

    Pixels with the label `ignore_index` are ignored. The loss of `auxiliary_logits` is added with a weight. With
    `num_items_in_batch` the cross-entropy is summed and divided by that number.
    """

    def loss(values: Float[Tensor, "b classes r s"]) -> Float[Tensor, ""]:
        resized = F.interpolate(values, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        if num_items_in_batch is None:
            return F.cross_entropy(resized, labels, ignore_index=ignore_index)
        return F.cross_entropy(resized, labels, ignore_index=ignore_index, reduction="sum") / num_items_in_batch

    total = loss(logits)
    return total if auxiliary_logits is None else total + auxiliary_loss_weight * loss(auxiliary_logits)


def masked_loss(
    images: Float[Tensor, "b c height width"],
    reconstruction: Float[Tensor, "b c rows columns"],
    mask: Shaped[Tensor, "b p"],
    grid: tuple[int, int],
) -> Float[Tensor, ""]:
    """Returns the mean absolute error over the pixels of masked patches (SimMIM, section 3.4).

    Pixels at the right and bottom that fill no patch are ignored.
    """
    height, width = reconstruction.shape[2:]
    rows, columns = height // grid[0], width // grid[1]
    pixels = repeat(mask, "b (r s) -> b 1 (r p) (s q)", r=grid[0], p=rows, q=columns)
    difference = F.l1_loss(images[:, :, :height, :width], reconstruction, reduction="none")
    return (difference * pixels).sum() / (pixels.sum() + 1e-5) / images.shape[1]
