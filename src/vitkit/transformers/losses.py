"""The losses of transformers for image classification, chosen by `config.problem_type`."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from vitkit.transformers.configuration import ViTConfig


def classification_loss(
    logits: Float[Tensor, "b classes"],
    labels: Shaped[Tensor, "..."],
    config: ViTConfig,
    num_items_in_batch: Tensor | int | None = None,
) -> Float[Tensor, ""]:
    """Squared error, cross entropy (labels of -100 left out) or binary cross entropy.

    A `problem_type` of None is settled by the first labels, and written into the config: regression for one class,
    else single-label for whole numbers, else multi-label. With `num_items_in_batch` cross entropy is the sum over the
    batch divided by it, so that accumulated batches weigh their pictures alike.
    """
    labels = labels.to(logits.device)
    if config.problem_type is None:
        if config.num_labels == 1:
            config.problem_type = "regression"
        else:
            whole = labels.dtype in (torch.int64, torch.int32)
            config.problem_type = "single_label_classification" if whole else "multi_label_classification"
    if config.problem_type == "regression":
        return F.mse_loss(logits.squeeze(), labels.squeeze()) if config.num_labels == 1 else F.mse_loss(logits, labels)
    if config.problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels)
    logits, labels = logits.view(-1, config.num_labels), labels.view(-1).long()
    if num_items_in_batch is None:
        return F.cross_entropy(logits, labels)
    items = num_items_in_batch.to(logits.device) if isinstance(num_items_in_batch, Tensor) else num_items_in_batch
    return F.cross_entropy(logits, labels, reduction="sum") / items
